//! The files of a host that tell of its groups, and lie outside of them.

use std::path::PathBuf;

/// Where things that are not cgroups are on this host; tests have their own.
#[derive(Debug, Clone)]
pub(super) struct Host {
    pub(super) boot_id: PathBuf,
    pub(super) proc_self_cgroup: PathBuf,
    pub(super) sys_dev_block: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Host {
            boot_id: "/proc/sys/kernel/random/boot_id".into(),
            proc_self_cgroup: "/proc/self/cgroup".into(),
            sys_dev_block: "/sys/dev/block".into(),
        }
    }
}
