//! Finds the directories that a glob names, and tells what could not be looked at.
//!
//! Names are bytes: one that is not UTF-8 is told and left out, wherever it stands, because no label can carry it. Each
//! directory is listed once, and an entry is asked about only where the listing does not say what it is.

use std::ffi::OsString;
use std::fs::DirEntry;
use std::io::{Error, ErrorKind};
use std::path::{Component, Path, PathBuf};

use glob::{MatchOptions, Pattern};

/// A glob of directories.
#[derive(Debug, Clone)]
pub(super) struct Globbed {
    /// The part before the first wildcard.
    base: PathBuf,
    parts: Vec<Part>,
    /// Whether `*` matches a name that begins with a dot.
    dots: bool,
}

#[derive(Debug, Clone)]
enum Part {
    Named(OsString),
    Like(Pattern),
    /// `**`: any number of directories.
    Deeper,
}

/// What a glob matches now.
#[derive(Debug, Default)]
pub(super) struct Matches {
    /// Directories, in no order; one may be there more than once.
    pub(super) directories: Vec<PathBuf>,
    /// Files and links that match, which are no directories.
    pub(super) others: usize,
    /// Directories whose names are not UTF-8.
    pub(super) odd: Vec<PathBuf>,
    /// What could not be listed.
    pub(super) failed: Vec<(PathBuf, Error)>,
}

impl Globbed {
    /// Reads a glob; `text` must be made of plain parts, which may have wildcards.
    pub(super) fn new(text: &str, dots: bool) -> Result<Globbed, String> {
        Pattern::new(text).map_err(|error| format!("`{text}` is not a glob: {error}"))?;
        let mut parts = Vec::new();
        let mut base = PathBuf::new();
        for component in Path::new(text).components() {
            let name = component.as_os_str();
            let wild = name.to_string_lossy().contains(['*', '?', '[']);
            match (component, name.to_str()) {
                (_, Some("**")) => parts.push(Part::Deeper),
                (Component::Normal(_), Some(name)) if wild => {
                    let pattern =
                        Pattern::new(name).map_err(|error| format!("`{text}` is not a glob: {error}"))?;
                    parts.push(Part::Like(pattern));
                }
                _ if parts.is_empty() => base.push(name),
                _ => parts.push(Part::Named(name.to_owned())),
            }
        }
        Ok(Globbed { base, parts, dots })
    }

    pub(super) fn base(&self) -> &Path {
        &self.base
    }

    /// Looks below `root` (or, where the glob is absolute, from the root of all). `touch` is called with each path before
    /// it is looked at; its error ends the search there.
    pub(super) fn find(&self, root: &Path, touch: &mut dyn FnMut(&Path) -> Result<(), Error>) -> Matches {
        let mut matches = Matches::default();
        self.below(&root.join(&self.base), &self.parts, touch, &mut matches);
        matches
    }

    fn below(
        &self,
        dir: &Path,
        parts: &[Part],
        touch: &mut dyn FnMut(&Path) -> Result<(), Error>,
        found: &mut Matches,
    ) {
        let (part, rest) = match parts.split_first() {
            None => return self.take(dir, touch, found),
            Some((Part::Named(name), rest)) => return self.below(&dir.join(name), rest, touch, found),
            Some(split) => split,
        };
        if let (Part::Deeper, [Part::Deeper, ..]) = (part, rest) {
            return self.below(dir, rest, touch, found);
        }
        let entries = match touch(dir).and_then(|()| std::fs::read_dir(dir)) {
            Ok(entries) => entries,
            // Gone, or no directory: it matches nothing.
            Err(error) if is_gone(&error) => return,
            Err(error) => return found.failed.push((dir.to_owned(), error)),
        };
        // `**` is none, too.
        if let (Part::Deeper, false) = (part, rest.is_empty()) {
            self.below(dir, rest, touch, found);
        }
        for entry in entries {
            match entry {
                Ok(entry) => self.entry(&entry, part, parts, rest, touch, found),
                Err(error) if is_gone(&error) => return,
                Err(error) => return found.failed.push((dir.to_owned(), error)),
            }
        }
    }

    fn entry(
        &self,
        entry: &DirEntry,
        part: &Part,
        parts: &[Part],
        rest: &[Part],
        touch: &mut dyn FnMut(&Path) -> Result<(), Error>,
        found: &mut Matches,
    ) {
        let name = entry.file_name();
        let text = name.to_string_lossy();
        let matches = match part {
            Part::Like(pattern) => pattern.matches_with(&text, self.options()),
            _ => self.dots || !text.starts_with('.'),
        };
        if !matches {
            return;
        }
        let path = entry.path();
        let kind = match entry.file_type() {
            Ok(kind) => kind,
            Err(error) if is_gone(&error) => return,
            Err(error) => return found.failed.push((path, error)),
        };
        match part {
            Part::Deeper if !kind.is_dir() => {}
            _ if name.to_str().is_none() => {
                if kind.is_dir() {
                    found.odd.push(path);
                }
            }
            Part::Deeper => {
                if rest.is_empty() {
                    found.directories.push(path.clone());
                }
                self.below(&path, parts, touch, found);
            }
            _ if !rest.is_empty() => {
                if kind.is_dir() || (kind.is_symlink() && touch(&path).is_ok() && path.is_dir()) {
                    self.below(&path, rest, touch, found);
                }
            }
            _ if kind.is_dir() => found.directories.push(path),
            _ => found.others += 1,
        }
    }

    /// A path whose last part has no wildcard.
    fn take(&self, path: &Path, touch: &mut dyn FnMut(&Path) -> Result<(), Error>, found: &mut Matches) {
        match touch(path).and_then(|()| std::fs::symlink_metadata(path)) {
            Ok(about) if about.is_dir() => found.directories.push(path.to_owned()),
            Ok(_) => found.others += 1,
            Err(error) if is_gone(&error) => {}
            Err(error) => found.failed.push((path.to_owned(), error)),
        }
    }

    fn options(&self) -> MatchOptions {
        MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: !self.dots,
        }
    }
}

/// Whether something is not there any more, or is no directory now.
pub(super) fn is_gone(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for path in ["a/b/c", "a/.hidden/x", "ab/b/x", "ab/bb", ".dot/b", "z[1]/b", "a/b/b"] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        fs::write(dir.path().join("a/b/file"), "").unwrap();
        fs::write(dir.path().join("afile"), "").unwrap();
        std::os::unix::fs::symlink("ab", dir.path().join("alink")).unwrap();
        dir
    }

    fn find(dir: &Path, pattern: &str, dots: bool) -> Matches {
        Globbed::new(pattern, dots).unwrap().find(dir, &mut |_| Ok(()))
    }

    fn paths(dir: &Path, pattern: &str, dots: bool) -> BTreeSet<String> {
        let found = find(dir, pattern, dots).directories;
        found.iter().map(|path| path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned()).collect()
    }

    /// What the glob crate, which panics at some names, makes of the others.
    #[test]
    fn it_finds_what_the_glob_crate_finds() {
        let dir = tree();
        let base = dir.path();
        for pattern in [
            "*",
            "a*",
            "?",
            "*/b",
            "*/*",
            "a/b/*",
            "*/b/*",
            "a/**",
            "**/b",
            "a/**/*",
            "**",
            "**/*/x",
            "[az]*",
            "z[[]1]/*",
            "a/b/c",
            "nothing/*",
            "a/b/file/*",
            "*/.hidden",
            "**/**/c",
            "[!a]*",
        ] {
            for dots in [true, false] {
                let options = MatchOptions {
                    case_sensitive: true,
                    require_literal_separator: true,
                    require_literal_leading_dot: !dots,
                };
                let whole = format!("{}/{pattern}", Pattern::escape(base.to_str().unwrap()));
                let theirs: BTreeSet<String> = glob::glob_with(&whole, options)
                    .unwrap()
                    .map(Result::unwrap)
                    .filter(|path| path.is_dir() && !path.is_symlink() && path != base)
                    // It follows some links behind `**`; what is there would be counted twice.
                    .filter(|path| !pattern.contains("**") || !path.starts_with(base.join("alink")))
                    .map(|path| path.strip_prefix(base).unwrap().to_str().unwrap().to_owned())
                    .collect();
                assert_eq!(paths(base, pattern, dots), theirs, "{pattern} dots {dots}");
            }
        }
        assert_eq!(find(base, "a*", true).others, 2);
    }

    #[test]
    fn a_name_that_is_not_utf_8_is_told_and_the_others_are_found() {
        let dir = tree();
        let odd = OsStr::from_bytes(b"a\xff");
        for (place, pattern, here) in [
            ("", "*", "a"),
            ("", "a*", "ab"),
            ("a", "a/*", "a/b"),
            ("a/b", "**/c", "a/b/c"),
            ("", "a*/b", "a/b"),
        ] {
            fs::create_dir_all(dir.path().join(place).join(odd).join("b")).unwrap();
            for dots in [true, false] {
                let found = find(dir.path(), pattern, dots);
                assert_eq!(found.odd, [dir.path().join(place).join(odd)], "{pattern}");
                assert!(paths(dir.path(), pattern, dots).contains(here), "{pattern}");
            }
            fs::remove_dir_all(dir.path().join(place).join(odd)).unwrap();
        }
        // What no glob would have matched is nobody's business.
        fs::create_dir(dir.path().join(odd)).unwrap();
        assert!(find(dir.path(), "z*", true).odd.is_empty());
    }

    #[test]
    fn what_must_not_be_touched_is_told_and_not_looked_at() {
        let dir = tree();
        let away = dir.path().join("ab");
        let found = Globbed::new("*/*", true).unwrap().find(dir.path(), &mut |path| {
            if path == away { Err(Error::other("away")) } else { Ok(()) }
        });
        let failed: Vec<_> =
            found.failed.iter().map(|(path, error)| (path.clone(), error.to_string())).collect();
        assert_eq!(failed, [(away.clone(), "away".to_owned())]);
        assert!(found.directories.contains(&dir.path().join("a/b")));
        assert!(!found.directories.iter().any(|path| path.starts_with(&away)));
    }
}
