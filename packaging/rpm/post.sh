# After the files are there; $1 is 1 for a new installation and 2 for an upgrade.
if command -v systemd-sysusers >/dev/null; then systemd-sysusers waldur-usage-agent.conf; fi
install -d -m 0755 /etc/waldur-usage-agent
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    if [ "$1" -gt 1 ]; then systemctl try-restart waldur-usage-agent.service || :; fi
fi
if [ "$1" -eq 1 ]; then
    echo "waldur-usage-agent: now run \`waldur-usage-agent init\`, then \`systemctl enable --now waldur-usage-agent\`"
fi
