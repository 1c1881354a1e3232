# Before the files go; $1 is 0 where nothing comes after.
if [ "$1" -eq 0 ] && [ -d /run/systemd/system ]; then
    systemctl disable --now waldur-usage-agent.service waldur-usage-agent-flush.timer || :
fi
