"""DingTalk: the robot of an internal app, by Stream mode or by signed callbacks."""
