//! Commands of the documents that are not run where their page is, and what pages are run at all.

use std::path::Path;

use super::blocks;

/// The page, how the block begins, and the file that runs it, with words of it that do; or no file: why nothing does.
const ELSEWHERE: &[(&str, &str, &str, &str)] = &[
    ("README.md", "collectors -> readings", "", "a picture"),
    ("README.md", "./demo", "tests/readme.rs", "./demo"),
    ("README.md", "$ waldur-usage-agent flush", "tests/readme.rs", "./demo"),
    ("README.md", "./test", ".ci/run", "./test"),
    ("README.md", "dpkg -i", "tests/packages.sh", "dpkg_ --install"),
    ("README.md", "cargo build --release", "tests/packages.sh", "--example generate -- \"$target/assets\""),
    (
        "README.md",
        "cargo install",
        "",
        "it would build everything a second time; what it installs is what cargo build makes",
    ),
    ("README.md", "podman build", "tests/image.sh", "buildah \"${store[@]}\" build"),
    ("README.md", "*/15 * * * *", "tests/image.sh", "flush --collect"),
    (
        "collectors/slurm.md",
        "waldur-usage-agent collect cluster --since",
        "tests/slurm.sh",
        "agent collect --since",
    ),
    ("collectors/slurm.md", "sacctmgr modify user", "tests/slurm.sh", "adminlevel=operator"),
    ("configuration.md", "# yaml-language-server", "", "a line of a configuration"),
    ("many-hosts.md", "ledger: ", "", "a part of a configuration"),
    ("many-hosts.md", "tests/with-postgres sh -c", "", "a measurement of a quarter of an hour"),
    (
        "operations.md",
        "journalctl",
        "tests/systemd.sh",
        "journalctl --no-pager -o json -u waldur-usage-agent.service COLLECTOR=",
    ),
    ("page.md", "ssh -L", "", "it needs a second host; tests/page.rs asks the same socket"),
    ("page.md", "(umask 077; head -c 24", "tests/page.sh", "page-token"),
    ("shadow.md", "report: shadow: nothing is posted", "", "what is said"),
];

/// The pages whose other blocks are run, and by which test.
const RUN: &[(&str, &str)] = &[
    ("README.md", "tests/readme.rs"),
    ("export.md", "tests/export.rs"),
    ("from-site-agent.md", "tests/operations.rs"),
    ("many-hosts.md", "tests/shared_moves.rs"),
    ("operations.md", "tests/operations.rs"),
    ("page.md", "tests/page.rs"),
    ("sandbox.md", "tests/operations.rs"),
    ("shadow.md", "tests/operations.rs"),
    ("takeover.md", "tests/agent_takeover.rs"),
    ("tutorial.md", "tests/tutorial.rs"),
    ("waldur-side.md", "tests/operations.rs"),
];

/// Which entry a block is.
pub(super) fn of(page: &str, block: &str) -> Option<usize> {
    ELSEWHERE.iter().position(|(of, begins, ..)| *of == page && block.starts_with(begins))
}

/// Every block of every page is run by the test of its page, or stands in the list; and the lists are right.
pub(crate) fn every_command_is_run_or_says_where() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = walkdir::WalkDir::new(root.join("docs")).into_iter().map(|entry| entry.unwrap().into_path());
    let mut used = vec![false; ELSEWHERE.len()];
    for path in
        pages.filter(|path| path.extension().is_some_and(|kind| kind == "md")).chain([root.join("README.md")])
    {
        let name = path.strip_prefix(root.join("docs")).unwrap_or(Path::new("README.md")).to_str().unwrap();
        let is_run = RUN.iter().any(|(page, _)| *page == name);
        for (_, block) in blocks(&std::fs::read_to_string(&path).unwrap()) {
            match of(name, &block) {
                Some(entry) => used[entry] = true,
                None => assert!(is_run, "{name}: nothing runs\n{block}"),
            }
        }
    }
    for ((page, begins, file, words), used) in ELSEWHERE.iter().zip(used) {
        assert!(used, "{page} has no block that begins with `{begins}`");
        let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
        assert!(
            file.is_empty() || text.contains(words),
            "{file} has no `{words}`, which should run `{begins}` of {page}"
        );
    }
    for (page, test) in RUN {
        let text = std::fs::read_to_string(root.join(test)).unwrap();
        assert!(text.contains(page), "{test} does not run {page}");
    }
}
