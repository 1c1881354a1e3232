//! A small disk of its own for a test's ledger, which may become full or read-only.

use super::*;

pub struct Mounted(pub PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

impl Mounted {
    /// Not a byte is free.
    pub fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("filler")).unwrap();
        for size in [65_536, 4_096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    pub fn make_room(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

/// A disk of its own for the ledger, or `None` where none can be mounted.
pub fn small_disk(world: &World, test: &str) -> Option<Mounted> {
    let disk = world.path("disk");
    std::fs::create_dir(&disk).unwrap();
    if !mount(&["-t", "tmpfs", "-o", "size=1m", "tmpfs", disk.to_str().unwrap()]) {
        skip(test, "a tmpfs can't be mounted (needs root and CAP_SYS_ADMIN)");
        return None;
    }
    let text = std::fs::read_to_string(world.path("agent.yaml")).unwrap();
    let on_disk = disk.join("ledger.db").display().to_string();
    world.write("agent.yaml", &text.replace(&world.path("ledger.db").display().to_string(), &on_disk));
    Some(Mounted(disk))
}

pub fn mount(arguments: &[&str]) -> bool {
    Command::new("mount").args(arguments).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
