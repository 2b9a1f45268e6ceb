"""What tests are made of: real servers, fakes with scripted faults, the chaos proxy, the kill harness."""
