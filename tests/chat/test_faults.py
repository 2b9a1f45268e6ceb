"""Killed anywhere and run again: a message is there once, or at most once where nobody can tell."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from flowrunner_provider.chat.operators import ChatPostOperator, SlackUpsertOperator, TeamsPostOperator
from tests.chat.stage import FAKES, connection
from tests.support.context import FileStateStore, execute, make_context
from tests.support.kill import Outcome, attempt, kill_at, random_kills, sweep, trace, zombies

pytestmark = pytest.mark.faults

KILLS = int(os.environ.get("FLOWRUNNER_KILLS", "1"))
EVERYWHERE = pytest.mark.skipif(
    KILLS < 3, reason="the same path as another platform; FLOWRUNNER_KILLS=3 sweeps it, too"
)


@dataclass(frozen=True)
class Scene:
    directory: Path
    channel: str
    connection: str
    on_unknown: str = "stop"


class Stage:
    def __init__(self, name: str, server, root: Path) -> None:
        self.name, self.fake, self.server, self.root, self.count = name, FAKES[name](), server, root, 0
        self.fake.install(server)

    def scene(self, on_unknown: str = "stop") -> Scene:
        self.count += 1
        channel = f"C0TEAM{self.count}"
        text = connection(self.name, self.server.url, channel)
        return Scene(self.root / str(self.count), channel, text, on_unknown)

    def once(self, scene: Scene) -> None:
        assert len(self.fake.posted(scene.channel)) == 1

    def at_most_once(self, scene: Scene) -> None:
        assert len(self.fake.posted(scene.channel)) <= 1

    def once_or_twice(self, scene: Scene) -> None:
        assert 1 <= len(self.fake.posted(scene.channel)) <= 2


@pytest.fixture
def stage(http_server, tmp_path):
    return lambda name: Stage(name, http_server, tmp_path)


def perform(scene: Scene, operator) -> object:
    for name in ("CHAT_DEFAULT", "TEAMS_DEFAULT", "SLACK_API_DEFAULT"):
        os.environ[f"AIRFLOW_CONN_{name}"] = scene.connection
    from flowrunner_provider.chat import slack
    from flowrunner_provider.chat.platforms.mattermost import MattermostBotGateway

    slack._FAR = replace(slack._FAR, settle=0.0)  # the fakes' lists are never late
    MattermostBotGateway.far = replace(MattermostBotGateway.far, settle=0.0)
    return execute(operator, make_context(operator, state=FileStateStore(scene.directory / "state")))


def post(scene: Scene) -> object:
    return perform(scene, ChatPostOperator(task_id="t", text="late", on_unknown=scene.on_unknown))


def post_card(scene: Scene) -> object:
    return perform(scene, TeamsPostOperator(task_id="t", text="late", on_unknown=scene.on_unknown))


def upsert(scene: Scene) -> object:
    return perform(scene, SlackUpsertOperator(task_id="t", channel=scene.channel, text="late"))


def upsert_by_key(scene: Scene) -> object:
    operator = SlackUpsertOperator(task_id="t", channel=scene.channel, text="late", message_key="load")
    return perform(scene, operator)


def settled(outcome: Outcome) -> bool:
    return outcome.ok or outcome.error_type == "OutcomeUnknown"


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("slack", upsert),
        ("google_chat", post),
        pytest.param("slack", upsert_by_key, marks=EVERYWHERE),
        pytest.param("discord_bot", post, marks=EVERYWHERE),
        pytest.param("mattermost_bot", post, marks=EVERYWHERE),
    ],
)
def test_where_the_platform_helps_it_is_there_once(stage, name, target):
    scenes = stage(name)
    sweep(scenes.scene, target, scenes.once)
    zombies(scenes.scene, target, scenes.once)
    random_kills(scenes.scene, target, scenes.once, count=KILLS)


@pytest.mark.parametrize(("name", "target"), [("teams", post_card), pytest.param("telegram", post, marks=EVERYWHERE)])
def test_where_nobody_can_tell_it_is_never_there_twice(stage, name, target):
    scenes = stage(name)
    sweep(scenes.scene, target, scenes.at_most_once, done=settled)
    zombies(scenes.scene, target, scenes.at_most_once, done=settled)
    random_kills(lambda: scenes.scene("skip"), target, scenes.at_most_once, count=KILLS)


def test_resend_posts_once_more_at_most(stage):
    scenes = stage("teams")
    scene = scenes.scene("resend")
    assert attempt(post_card, scene, rules=[kill_at("teams.post.after_send")]).killed
    assert attempt(post_card, scene, try_number=2).ok
    assert len(scenes.fake.posted(scene.channel)) == 2
    random_kills(lambda: scenes.scene("resend"), post_card, scenes.once_or_twice, count=KILLS)


def test_a_change_of_a_message_is_made_again(stage):
    scenes = stage("slack")
    scene = scenes.scene()
    upsert_by_key(scene)
    later = replace(scene, directory=scene.directory / "later")
    for point in ("slack.upsert.before_update", "slack.upsert.after_update"):
        assert attempt(upsert_by_key, later, rules=[kill_at(point)]).killed
    assert attempt(upsert_by_key, later, try_number=3).ok
    scenes.once(scene)


def test_the_sweep_reaches_both_sides_of_the_wire(stage):
    points = trace(post_card, stage("teams").scene())
    assert {"teams.post.before_send", "teams.post.after_send", "effect.teams.post.after_act"} <= set(points)
