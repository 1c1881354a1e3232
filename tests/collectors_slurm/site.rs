//! A site with a sacct and a sacctmgr that print what they are told to.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use jiff::Timestamp;
use waldur_usage_agent::collectors::{Batch, Collector, CollectorError, Request, slurm};
use waldur_usage_agent::config::section::Section;

pub const HEADER: &str =
    "JobIDRaw|Submit|Start|End|ElapsedRaw|State|Account|User|Partition|QOS|Cluster|Reservation|AllocTRES\n";
/// 2026-11-05T10:00:00Z.
pub const NOW: i64 = 1_793_872_800;

/// A folder with a sacct and a sacctmgr that print what they are told to, and keep what they were asked.
pub struct Site {
    pub folder: tempfile::TempDir,
}

impl Site {
    pub fn new(answer: &str) -> Site {
        let site = Site { folder: tempfile::tempdir().unwrap() };
        site.write("answer", answer);
        site.write("clusters", "alpha\nbeta\n");
        site.program(
            "sacct",
            "echo \"TZ=$TZ SLURM_TIME_FORMAT=$SLURM_TIME_FORMAT CLUSTERS=${SLURM_CLUSTERS-none}\" \"$@\" >> asked\n\
             case \"$*\" in *--jobs=*) exec cat jobs ;; esac\n\
             exec cat answer",
        );
        site.program(
            "sacctmgr",
            "case \"$*\" in\n*'list cluster'*) cat clusters ;;\n*withdeleted*) cat deleted ;;\n\
             *'show assoc'*) cat assoc ;;\nesac",
        );
        site
    }

    /// A sacct that lists what there is in the window, or of the jobs that it is asked for, from the file `answer`. It refuses
    /// windows of more seconds than the file `widest` says.
    pub fn honest(answer: &str) -> Site {
        let site = Site::new(answer);
        site.program("sacct", include_str!("honest.sh"));
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub fn program(&self, name: &str, script: &str) {
        let text = format!("#!/bin/sh\ncd {}\n{script}\n", self.folder.path().display());
        let new = self.path(&format!(".{name}"));
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, self.path(name)).unwrap();
    }

    pub fn collector(&self, keys: &str) -> Box<dyn Collector> {
        let (mut section, problems) =
            Section::parse(&format!("programs: {}\n{keys}", self.folder.path().display()));
        let collector = (slurm::PLUGIN.build)(&mut section);
        section.finish();
        assert_eq!(problems.list(), vec![], "{keys}");
        collector.unwrap()
    }

    /// A collector whose meters want something; the meters' other keys are their own business.
    pub fn collector_with_meters(&self, keys: &str) -> Box<dyn Collector> {
        let (mut section, _) = Section::parse(&format!("programs: {}\n{keys}", self.folder.path().display()));
        (slurm::PLUGIN.build)(&mut section).unwrap()
    }

    pub async fn run(&self, keys: &str, request: Request) -> Result<Batch, CollectorError> {
        self.collector(keys).collect(request).await
    }

    pub async fn fails(&self, keys: &str) -> String {
        self.run(keys, at(NOW)).await.unwrap_err().0
    }

    /// What sacct was asked, one call a line; forgotten afterwards.
    pub fn asked(&self) -> Vec<String> {
        let asked = fs::read_to_string(self.path("asked")).unwrap_or_default();
        let _ = fs::remove_file(self.path("asked"));
        asked.lines().map(str::to_owned).collect()
    }
}

pub fn at(seconds: i64) -> Request {
    let now = Timestamp::from_second(seconds).unwrap();
    Request { now, since: "2020-01-01T00:00:00Z".parse().unwrap(), checkpoint: None, withhold: Vec::new() }
}
