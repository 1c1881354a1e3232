//! Which series a path could have been: so that what can't be looked at withholds nothing of what can.

use std::path::Path;

use crate::collectors::{Bearing, SeriesFilter};
use crate::metering::reading::Labels;

/// The readings of a mount.
pub(super) const MOUNTS: [&str; 3] = ["mount_used_bytes", "mount_total_bytes", "mount_used_inodes"];
/// The readings of a directory.
pub(super) const DIRECTORIES: [&str; 3] = ["directory_bytes", "directory_apparent_bytes", "directory_inodes"];

/// These readings of this path. One that is not UTF-8 never had any.
pub(super) fn at(names: &[&str], path: &Path) -> Bearing {
    let Some(path) = path.to_str() else { return Bearing::nothing() };
    let labels = Labels::from([("path".to_owned(), path.to_owned())]);
    Bearing::labelled(names.iter().copied(), &labels)
}

/// The directories at this path and below it.
pub(super) fn below(path: &Path) -> Bearing {
    let Some(text) = path.to_str() else { return Bearing::nothing() };
    let prefix = format!("{}/", text.trim_end_matches('/'));
    let prefixes = Labels::from([("path".to_owned(), prefix)]);
    let filter = |name: &str| SeriesFilter {
        name: Some(name.to_owned()),
        prefixes: prefixes.clone(),
        ..SeriesFilter::default()
    };
    let mut bears_on = at(&DIRECTORIES, path);
    bears_on.join(Bearing::Some(DIRECTORIES.into_iter().map(filter).collect()));
    bears_on
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_bears_on_what_lies_in_it_and_on_nothing_beside_it() {
        let covers = |bearing: &Bearing, name: &str, path: &str| {
            bearing.covers(name, &Labels::from([("path".to_owned(), path.to_owned())]))
        };
        let home = below(Path::new("/home"));
        for (name, path, covered) in [
            ("directory_bytes", "/home/alice", true),
            ("directory_inodes", "/home", true),
            ("directory_bytes", "/homes/alice", false),
            ("directory_bytes", "/", false),
            ("mount_used_bytes", "/home", false),
        ] {
            assert_eq!(covers(&home, name, path), covered, "{name} {path}");
        }
        assert!(covers(&below(Path::new("/")), "directory_bytes", "/x"));
        let alice = at(&DIRECTORIES, Path::new("/home/alice"));
        assert!(covers(&alice, "directory_bytes", "/home/alice"));
        assert!(
            !covers(&alice, "directory_bytes", "/home/alice/x")
                && !covers(&alice, "mount_used_bytes", "/home/alice")
        );
    }
}
