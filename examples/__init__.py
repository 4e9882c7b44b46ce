"""Programs that show Greenroom at work, each run by the tests."""
