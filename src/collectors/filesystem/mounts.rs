//! What is mounted where, from /proc/self/mountinfo. Pure but for `Mounts::now`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The mount points of this process's view of the file system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mounts(BTreeSet<PathBuf>);

impl Mounts {
    pub(super) fn now() -> Result<Mounts, String> {
        let path = "/proc/self/mountinfo";
        let text = std::fs::read(path).map_err(|error| format!("{path} can't be read: {error}"))?;
        Ok(Mounts::parse(&text))
    }

    /// The fifth word of each line is a mount point.
    pub(super) fn parse(mountinfo: &[u8]) -> Mounts {
        let lines = mountinfo.split(|byte| *byte == b'\n');
        let points = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
        Mounts(points.map(|point| PathBuf::from(OsString::from_vec(unescape(point)))).collect())
    }

    /// Whether something is mounted at this path, which must be free of links.
    pub(super) fn has(&self, real: &Path) -> bool {
        self.0.contains(real)
    }

    /// The mount point below which a path without links lies.
    pub(super) fn of<'a>(&self, real: &'a Path) -> Option<&'a Path> {
        real.ancestors().find(|path| self.0.contains(*path))
    }
}

/// Blanks and such are written as three octal digits: `\040`.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
                bytes.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = &rest[4..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mount_points_are_read_with_their_blanks() {
        let mounts = Mounts::parse(
            b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
              36 27 98:0 /mnt1 /srv/shared\\040space rw,noatime master:1 - ext3 /dev/root rw\n\
              37 27 0:50 / /home rw - nfs4 server:/home rw\n",
        );
        assert!(mounts.has(Path::new("/srv/shared space")) && mounts.has(Path::new("/")));
        assert!(!mounts.has(Path::new("/srv")));
        assert_eq!(mounts.of(Path::new("/home/alice/x")), Some(Path::new("/home")));
        assert_eq!(mounts.of(Path::new("/homes/alice")), Some(Path::new("/")));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in r"[ \\0-9/a\n]{0,80}") {
            let _ = (Mounts::parse(&bytes), Mounts::parse(text.as_bytes()));
        }
    }
}
