//! What this host has that could be measured: SLURM's programs, control groups, a Prometheus server. It only looks.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Where a Prometheus server usually listens.
const PROMETHEUS: &str = "127.0.0.1:9090";
const CGROUPS: &str = "/sys/fs/cgroup";
/// For each of the two questions to a Prometheus server on this machine.
const PATIENCE: Duration = Duration::from_secs(2);
/// A busy database takes its time.
const SACCT_PATIENCE: Duration = Duration::from_secs(10);
const PATH_OF_SERVICES: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
const LONGEST_ANSWER: u64 = 64 << 10;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Host {
    /// The directory of sacct.
    pub(super) slurm: Option<PathBuf>,
    /// Whether it answers.
    pub(super) slurm_answers: bool,
    /// Users' slices of systemd.
    pub(super) cgroups: bool,
    pub(super) prometheus: Option<Prometheus>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prometheus {
    pub(super) url: String,
    /// Whether it has the kubelets' metrics of containers.
    pub(super) containers: bool,
}

impl Host {
    pub(super) async fn look() -> Host {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let slurm = std::env::split_paths(&path).find(|directory| directory.join("sacct").is_file());
        let slurm_answers = match &slurm {
            Some(directory) => answers(&directory.join("sacct")).await,
            None => false,
        };
        Host {
            slurm,
            slurm_answers,
            cgroups: Path::new(CGROUPS).join("cgroup.controllers").exists()
                || Path::new(CGROUPS).join("cpuacct").is_dir(),
            prometheus: prometheus(PROMETHEUS).await,
        }
    }

    /// The directory of sacct, where a service would not look for it: its PATH is not that of a person (systemd.exec(5)).
    pub(super) fn slurm_elsewhere(&self) -> Option<PathBuf> {
        self.slurm.clone().filter(|at| !PATH_OF_SERVICES.iter().any(|usual| Path::new(usual) == at))
    }

    /// One line for people.
    pub(super) fn words(&self) -> String {
        let slurm = self.slurm.as_ref().map(|at| match self.slurm_answers {
            true => format!("SLURM (sacct in {})", at.display()),
            false => format!("SLURM, which does not answer (sacct in {} fails)", at.display()),
        });
        let cgroups = self.cgroups.then(|| format!("control groups ({CGROUPS})"));
        let prometheus = self.prometheus.as_ref().map(|found| match found.containers {
            true => format!("Prometheus ({}) with containers' metrics", found.url),
            false => format!("Prometheus ({})", found.url),
        });
        let found: Vec<String> = [slurm, cgroups, prometheus].into_iter().flatten().collect();
        match found.is_empty() {
            true => "no SLURM, no control groups, no Prometheus".to_owned(),
            false => found.join(", "),
        }
    }
}

/// Whether sacct lists jobs, be it none: programs of SLURM are on many hosts that have no cluster, or can't reach its database.
async fn answers(sacct: &Path) -> bool {
    let mut command = tokio::process::Command::new(sacct);
    command.args(["--noheader", "--allocations", "--starttime=now-1minutes"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(SACCT_PATIENCE, command.status()).await;
    ended.is_ok_and(|ended| ended.is_ok_and(|status| status.success()))
}

/// The Prometheus server at an address of this machine, if one answers there.
pub(super) async fn prometheus(address: &str) -> Option<Prometheus> {
    let build = ask(address, "/api/v1/status/buildinfo").await?;
    if build["status"] != "success" || !build["data"]["version"].is_string() {
        return None;
    }
    let query = "/api/v1/query?query=count(container_cpu_usage_seconds_total)";
    let counted = ask(address, query).await.unwrap_or_default();
    let containers = counted["data"]["result"].as_array().is_some_and(|rows| !rows.is_empty());
    Some(Prometheus { url: format!("http://{address}"), containers })
}

/// One small JSON answer, or nothing.
async fn ask(address: &str, path: &str) -> Option<serde_json::Value> {
    let answer = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        // HTTP/1.0: the answer ends where the connection does, and is not in chunks.
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: application/json\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await.ok()?;
        Some(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, answer).await.ok()??;
    let text = String::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    head.lines().next()?.split(' ').nth(1).filter(|status| *status == "200")?;
    serde_json::from_str(body).ok()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers each path with what is said here, and others with 404.
    async fn serving(answers: &'static [(&'static str, &'static str)]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 1024];
                let read = stream.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..read]).into_owned();
                let path = request.split(' ').nth(1).unwrap_or_default();
                let answer = match answers.iter().find(|(known, _)| path.starts_with(known)) {
                    Some((_, body)) => format!("HTTP/1.0 200 OK\r\n\r\n{body}"),
                    None => "HTTP/1.0 404 Not Found\r\n\r\nno".to_owned(),
                };
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        address
    }

    const BUILD: (&str, &str) =
        ("/api/v1/status/buildinfo", r#"{"status":"success","data":{"version":"2.42.0"}}"#);

    #[tokio::test]
    async fn a_prometheus_server_is_known_by_its_answers() {
        let with = serving(&[BUILD, ("/api/v1/query", r#"{"data":{"result":[{"value":[1,"7"]}]}}"#)]).await;
        assert_eq!(
            prometheus(&with).await,
            Some(Prometheus { url: format!("http://{with}"), containers: true })
        );
        let without = serving(&[BUILD, ("/api/v1/query", r#"{"data":{"result":[]}}"#)]).await;
        assert_eq!(prometheus(&without).await.map(|found| found.containers), Some(false));
        let other = serving(&[("/api/v1/status/buildinfo", "<html>")]).await;
        assert_eq!(prometheus(&other).await, None);
        let none = serving(&[]).await;
        assert_eq!(prometheus(&none).await, None);
    }
}
