"""The files of deploy/: systemd, containers and proxies of one machine."""
