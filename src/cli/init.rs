//! `init`: makes a configuration file of what Waldur lets a token report and of what this host has, or of a
//! waldur-site-agent's. It writes a file that is not there yet, tries it with `check`, and sends nothing.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::ask;
use super::check::Check;
use super::exit::{Exit, Failed};
use super::setup::count;
use crate::config::clock::process_clock;
use crate::config::section::Section;
use crate::config::settings::DEFAULT_PATH;
use crate::config::waldur::{WaldurSettings, check_token};
use crate::waldur::client::Client;

use draft::{Draft, TokenLine, quoted};
use host::Host;
use output::{tell, try_writing, write_file};
use sources::{Choice, Marketplace};

mod draft;
mod host;
mod offer;
mod output;
mod site_agent;
mod sources;

/// Make a configuration file, also of a waldur-site-agent's.
///
/// Asks for what no option says, if it runs at a terminal. Shows the offerings that the token may report on, their
/// components and resources, and what of this host could be measured; writes a commented file with the factors that
/// the units ask for; and runs `check` on it. Nothing is sent.
#[derive(Debug, Args)]
pub(super) struct Init {
    /// The address of Waldur.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The file that holds the token, or is to hold it [default: `token` beside the configuration file].
    #[arg(long, value_name = "FILE", conflicts_with = "token_env")]
    token_file: Option<PathBuf>,
    /// The environment variable that holds the token.
    #[arg(long, value_name = "NAME")]
    token_env: Option<String>,
    /// Authorities to trust instead of the system's.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Take plain http for an address that is not this machine's.
    #[arg(long)]
    allow_http: bool,
    /// The time zone whose months Waldur bills by.
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    billing_timezone: String,
    /// Only this offering, by UUID or name; may be given several times.
    #[arg(long, value_name = "OFFERING")]
    offering: Vec<String>,
    /// What is measured [default: the first of these that is here].
    #[arg(long, value_enum)]
    source: Option<Source>,
    /// The Prometheus server to ask, where it is not on this machine.
    #[arg(long, value_name = "URL")]
    prometheus: Option<String>,
    /// The resource that the control groups of this host are billed to.
    #[arg(long, value_name = "UUID")]
    resource: Option<Uuid>,
    /// Make the file of this configuration of a waldur-site-agent.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["url", "source", "prometheus", "resource", "billing_timezone"])]
    from_site_agent: Option<PathBuf>,
    /// The file to write [default: as for --config]; `-` shows it and writes nothing.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace a file that is there.
    #[arg(long)]
    force: bool,
    /// Ask neither Waldur (but for what the file is made of) nor the collectors when the file is checked.
    #[arg(long)]
    offline: bool,
}

/// What a site measures with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Source {
    /// Jobs of a SLURM cluster, by account.
    Slurm,
    /// Containers of a Kubernetes cluster, by namespace.
    Prometheus,
    /// Users of this host, by its control groups, as one resource.
    Cgroup,
}

impl Init {
    pub(super) async fn run(self, path: Option<&Path>, out: &mut dyn Write) -> Result<Exit, Failed> {
        let target = match (&self.output, path) {
            (Some(file), _) => file.clone(),
            (None, Some(path)) => path.to_owned(),
            (None, None) => PathBuf::from(DEFAULT_PATH),
        };
        let shown_only = target == Path::new("-");
        if !shown_only && !self.force && target.exists() {
            return Err(Failed::new(
                Exit::Usage,
                format!("{} is there already: name another with --output, or give --force", target.display()),
            ));
        }
        // Before anybody types a token.
        if !shown_only {
            try_writing(&target)?;
        }
        let (draft, left) = match &self.from_site_agent {
            Some(file) => self.of_site_agent(file, &target, out)?,
            None => (self.of_waldur(&target, out).await?, Vec::new()),
        };
        let text = match Path::new(SCHEMA).exists() {
            true => format!("# yaml-language-server: $schema={SCHEMA}\n{}", draft.text()),
            false => draft.text(),
        };
        if shown_only {
            write!(out, "{text}")?;
            return Ok(Exit::Ok);
        }
        write_file(&target, &text, 0o644)?;
        let (collectors, meters) = draft.counts();
        writeln!(
            out,
            "\nWritten: {} ({}, {}).",
            target.display(),
            count(collectors, "collector"),
            count(meters, "meter")
        )?;
        for line in left {
            tell(out, "not taken over: ", &line)?;
        }
        if collectors == 0 {
            tell(
                out,
                "",
                "No component could be matched with a reading: the file has comments that say why. Fill them in.",
            )?;
        }
        writeln!(out)?;
        let as_service = draft.token == TokenLine::Usual && target.with_file_name("token").exists();
        let exit = Check::of(self.offline, as_service).run(Some(&target), out).await?;
        writeln!(out)?;
        let config = match target == Path::new(DEFAULT_PATH) {
            true => String::new(),
            false => format!(" --config {}", target.display()),
        };
        if exit == Exit::Config {
            tell(out, "", &format!("Correct what is wrong, then `waldur-usage-agent{config} check`."))?;
            return Ok(exit);
        }
        let next = match &self.from_site_agent {
            None => {
                "collect --dry-run` shows what would be measured; `flush --collect` reports once; `run` is the daemon."
            }
            Some(_) => {
                "collect --dry-run` shows what would be measured. Run it beside waldur-site-agent for a month before it \
                 reports: docs/from-site-agent.md."
            }
        };
        tell(out, "", &format!("Next: `waldur-usage-agent{config} {next}"))?;
        Ok(exit)
    }

    /// What Waldur lets the token report, and this host has.
    async fn of_waldur(&self, target: &Path, out: &mut dyn Write) -> Result<Draft, Failed> {
        let url = match &self.url {
            Some(url) => url.clone(),
            None if ask::somebody() => {
                ask::line("The address of Waldur, such as https://waldur.example.com", None)?
            }
            None => return Err(Failed::new(Exit::Usage, "which Waldur? Say --url URL")),
        };
        let token = self.token(target)?;
        let client = self.client(&url, &token)?;
        let me = client.me().await?;
        let lifetime = match me.token_lifetime {
            None => "does not expire".to_owned(),
            Some(seconds) => format!("dies after {seconds} s without a call"),
        };
        writeln!(out, "Waldur: {}, user {}; the token {lifetime}.", client.api(), me.username)?;
        let marketplace = Marketplace::read(&client, &self.offering).await?;
        if marketplace.offerings.is_empty() {
            return Err(Failed::new(
                Exit::Token,
                format!(
                    "there is no offering that user {} may report on: make it manager of the offering (OFFERING.MANAGER), or \
                     look at --offering",
                    me.username
                ),
            ));
        }
        let host = Host::look().await;
        let choice = self.choose(&host)?;
        marketplace.show(&choice, out)?;
        tell(out, "This host has: ", &host.words())?;
        let collectors =
            sources::collectors(&marketplace, &choice, |resources| self.which_resource(resources))?;
        let mut about = vec![
            "Made by `waldur-usage-agent init` of what Waldur says. Look at every factor before anything is reported."
                .to_owned(),
            "Every key there is: docs/configuration.md.".to_owned(),
        ];
        about.push(format!("This host has: {}.", host.words()));
        Ok(Draft {
            about,
            url,
            token,
            allow_http: self.allow_http,
            ca_file: self.ca_file.as_ref().map(|file| absolute(file)),
            billing_timezone: self.billing_timezone.clone(),
            submit: Vec::new(),
            collectors,
        })
    }

    /// What a waldur-site-agent's configuration says, and what of it has no place here.
    fn of_site_agent(
        &self,
        file: &Path,
        target: &Path,
        out: &mut dyn Write,
    ) -> Result<(Draft, Vec<String>), Failed> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| Failed::new(Exit::Config, format!("can't read {}: {error}", file.display())))?;
        let taken = match self.offering.as_slice() {
            [] => site_agent::read(&text, None),
            [only] => site_agent::read(&text, Some(only)),
            _ => Err("give --offering once".to_owned()),
        };
        let taken = taken.map_err(|why| Failed::new(Exit::Config, format!("{}: {why}", file.display())))?;
        let token = match (&self.token_env, &taken.token) {
            (Some(name), _) => TokenLine::Env(name.clone()),
            (None, Some(token)) if target != Path::new("-") => self.keep_token(target, token)?,
            (None, _) => token_line(&self.token_path(target), target),
        };
        writeln!(out, "Waldur: {}", taken.url)?;
        for collector in &taken.collectors {
            writeln!(out, "Taken over: collector {}", collector.name)?;
        }
        let about = vec![
            format!(
                "Made by `waldur-usage-agent init --from-site-agent {}`: docs/from-site-agent.md.",
                file.display()
            ),
            "Only what reports usage was taken over; orders and members stay with waldur-site-agent."
                .to_owned(),
        ];
        let submit = SHADOW.lines().map(str::to_owned).collect();
        let draft = Draft {
            about,
            url: taken.url,
            token,
            allow_http: self.allow_http,
            ca_file: self.ca_file.as_ref().map(|file| absolute(file)),
            billing_timezone: taken.billing_timezone,
            submit,
            collectors: taken.collectors,
        };
        Ok((draft, taken.left))
    }

    fn token_path(&self, target: &Path) -> PathBuf {
        let path = match &self.token_file {
            Some(file) => file.clone(),
            None if target == Path::new("-") => Path::new(DEFAULT_PATH).with_file_name("token"),
            None => target.with_file_name("token"),
        };
        // The service works in another directory than whoever runs this.
        std::path::absolute(&path).unwrap_or(path)
    }

    /// Where the token is; asked for and kept there if nobody has yet.
    fn token(&self, target: &Path) -> Result<TokenLine, Failed> {
        if let Some(name) = &self.token_env {
            return Ok(TokenLine::Env(name.clone()));
        }
        let path = self.token_path(target);
        if path.exists() {
            return Ok(token_line(&path, target));
        }
        if self.token_file.is_none() && std::env::var_os("WALDUR_TOKEN").is_some() {
            return Ok(TokenLine::Usual);
        }
        if !ask::somebody() {
            return Err(Failed::new(
                Exit::Usage,
                format!(
                    "where is the token? Write it to {} or say --token-file or --token-env",
                    path.display()
                ),
            ));
        }
        let token =
            ask::secret(&format!("The token (not shown; kept in {}, for its owner alone)", path.display()))?;
        self.keep_token(target, &token)
    }

    /// Writes a token into its file. One that is there is left alone: it may be a newer one.
    fn keep_token(&self, target: &Path, token: &SecretString) -> Result<TokenLine, Failed> {
        check_token(token.expose_secret())
            .map_err(|why| Failed::new(Exit::Config, format!("the token {why}")))?;
        let path = self.token_path(target);
        let there = std::fs::read_to_string(&path).ok();
        if there.is_some_and(|there| there.trim() != token.expose_secret()) {
            eprintln!("{} holds another token, and is left as it is.", path.display());
        }
        if !path.exists() {
            write_file(&path, &format!("{}\n", token.expose_secret()), 0o600)?;
        }
        Ok(token_line(&path, target))
    }

    fn client(&self, url: &str, token: &TokenLine) -> Result<Client, Failed> {
        let mut text = format!("url: {}\ntimeout: 1m\nallow_http: {}\n", quoted(url), self.allow_http);
        text += &match token {
            TokenLine::File(path) => format!("token_file: {}\n", quoted(path)),
            TokenLine::Env(name) => format!("token_env: {}\n", quoted(name)),
            TokenLine::Usual if std::env::var_os("WALDUR_TOKEN").is_some() => String::new(),
            TokenLine::Usual => format!("token_file: {}\n", quoted(&service_token())),
        };
        if let Some(file) = &self.ca_file {
            text += &format!("ca_file: {}\n", quoted(&absolute(file)));
        }
        // As the file will be read, so that what is wrong is said in the same words.
        let (mut section, problems) = Section::parse(&text);
        let settings = WaldurSettings::from_section(&mut section);
        section.finish();
        let Some(settings) = settings else {
            let all: Vec<String> = problems.list().iter().map(|problem| problem.message.clone()).collect();
            // In the file it would be the key; there is none yet.
            let all = all.join("; ").replace("`allow_http: true` if you must", "`--allow-http` if you must");
            return Err(Failed::new(Exit::Usage, all));
        };
        Client::new(&settings, process_clock()).map_err(|error| Failed::new(Exit::Config, error.to_string()))
    }

    fn choose(&self, host: &Host) -> Result<Choice, Failed> {
        let prometheus = || {
            let url = self.prometheus.clone().or(host.prometheus.as_ref().map(|found| found.url.clone()));
            url.map(Choice::Prometheus)
        };
        match self.source {
            Some(Source::Slurm) => Ok(Choice::Slurm(host.slurm_elsewhere())),
            Some(Source::Cgroup) => Ok(Choice::Cgroup),
            Some(Source::Prometheus) => prometheus().ok_or_else(|| {
                Failed::new(Exit::Usage, "where is the Prometheus server? Say --prometheus URL")
            }),
            None if self.prometheus.is_some() => Ok(prometheus().unwrap_or(Choice::Cgroup)),
            None if host.slurm_answers => Ok(Choice::Slurm(host.slurm_elsewhere())),
            None if host.prometheus.as_ref().is_some_and(|found| found.containers) => {
                Ok(prometheus().unwrap_or(Choice::Cgroup))
            }
            None => Ok(Choice::Cgroup),
        }
    }

    /// Which of several resources the control groups of this host are billed to: never a guess.
    fn which_resource(&self, resources: &[(Uuid, String)]) -> Result<Uuid, Failed> {
        let list = || {
            let lines: Vec<String> =
                resources.iter().map(|(uuid, name)| format!("  {uuid}  {name}")).collect();
            lines.join("\n")
        };
        match (self.resource, resources) {
            (Some(wanted), _) if resources.iter().any(|(uuid, _)| *uuid == wanted) => Ok(wanted),
            (Some(wanted), _) => Err(Failed::new(
                Exit::Usage,
                format!("{wanted} is none of the resources that the token may report on:\n{}", list()),
            )),
            (None, [(only, _)]) => Ok(*only),
            (None, []) => {
                Err(Failed::new(Exit::Stuck, "the offerings have no resource yet: order one in Waldur first"))
            }
            (None, _) if ask::somebody() => {
                eprintln!("The users of this host are billed to one resource:\n{}", list());
                let answer = ask::line("Its UUID", None)?;
                let chosen = resources.iter().find(|(uuid, _)| answer.parse() == Ok(*uuid));
                chosen.map(|(uuid, _)| *uuid).ok_or_else(|| Failed::new(Exit::Usage, "that is none of them"))
            }
            (None, _) => Err(Failed::new(
                Exit::Usage,
                format!(
                    "the users of this host are billed to one resource: say which with --resource, or measure something else \
                     (--source). There are:\n{}",
                    list()
                ),
            )),
        }
    }
}

fn absolute(file: &Path) -> String {
    std::path::absolute(file).unwrap_or_else(|_| file.to_owned()).display().to_string()
}

/// What a file that was made of a waldur-site-agent's says of submitting.
const SHADOW: &str = "\
schedule: \"*/30 * * * *\"
# It is only compared with what Waldur holds (`diff`), and nothing is posted.
# `live` reports: docs/shadow.md.
report: shadow
# What waldur-site-agent wrote is held, and nothing of it overwritten, until a
# person decides: docs/takeover.md.
on_conflict: hold";

/// What the packages install for editors.
const SCHEMA: &str = "/usr/share/waldur-usage-agent/agent.schema.json";

/// The token of the service, as its unit hands it over.
fn service_token() -> String {
    Path::new(DEFAULT_PATH).with_file_name("token").display().to_string()
}

/// A token where the unit looks for it is the service's credential; the service itself can't read the file.
/// Only the service's own file finds the service's own token.
fn token_line(path: &Path, target: &Path) -> TokenLine {
    let text = path.display().to_string();
    match text == service_token() && target == Path::new(DEFAULT_PATH) {
        true => TokenLine::Usual,
        false => TokenLine::File(text),
    }
}
