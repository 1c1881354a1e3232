//! The model's other side: a server that is little more than a table of rows, a network before it that decides what
//! becomes of each request, and the laws that are looked after at the very moment at which they could be broken.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use uuid::Uuid;

/// A call whose sender gave up arrives within so long, or never.
const UNDER_WAY: SignedDuration = SignedDuration::from_mins(10);
pub(crate) const OFFERING: &str = "91ab0000-0000-4000-8000-000000000001";
pub(crate) const USERS: &[&str] = &["alice", "bob"];
/// How long another's row may have gone unseen at most: rows are read at most so long before they are written.
const UNSEEN_FOR: SignedDuration = SignedDuration::from_mins(5);

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Passes,
    NeverArrives,
    AnswerIsLost,
    /// Nobody knows of it until an `Arrival`.
    ArrivesLate,
    /// Its answer is lost, and at an `Arrival` it comes once more.
    ArrivesTwice,
    /// A 503 instead of anything.
    Fails,
    /// A 502 of a proxy, after it was done.
    FailsAfterwards,
    HalfAnAnswer,
    /// Another hand writes over a report as soon as it is there, before anybody has looked.
    AnotherIsQuicker,
}

/// Resource and component.
pub(crate) type Place = (Uuid, String);
/// A place in a month (`2026-11`).
pub(crate) type Cell = (Place, String);

#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) uuid: Uuid,
    pub(crate) cents: i64,
    date: Timestamp,
    pub(crate) users: BTreeMap<String, i64>,
    /// Since when it is another's.
    pub(crate) other: Option<Timestamp>,
    /// Whether the agent was told of it since it was written.
    pub(crate) told: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Report {
    target: String,
    body: Value,
}

/// The whole state.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) dated: bool,
    pub(crate) now: Timestamp,
    pub(crate) rows: BTreeMap<Cell, Row>,
    pub(crate) resources: Vec<Uuid>,
    /// What the source says, and all that it ever said.
    pub(crate) total: BTreeMap<Cell, i64>,
    pub(crate) once: BTreeMap<Cell, BTreeSet<i64>>,
    /// Cells that another hand ever wrote to.
    pub(crate) touched: BTreeSet<Cell>,
    pub(crate) fates: VecDeque<Fate>,
    /// Under way for long, and since when.
    pub(crate) late: VecDeque<(Timestamp, Report)>,
    /// Cut the agent off at the n-th request from now, before or after it is served.
    pub(crate) cut: Option<(u8, bool)>,
    /// Resources of which a report has an outcome that the agent does not know.
    pub(crate) doubt: BTreeSet<Uuid>,
    /// What the agent was told that the server holds.
    pub(crate) known: BTreeMap<Cell, i64>,
    pub(crate) broken: Vec<String>,
    pub(crate) requests: u64,
    /// Which life of the agent it is.
    pub(crate) life: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Shared {
    model: Mutex<Model>,
    pub(crate) cut: Notify,
}

impl Shared {
    pub(crate) fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

pub(crate) fn month(at: Timestamp) -> String {
    at.to_string()[..7].to_owned()
}

fn simple(uuid: Uuid) -> String {
    uuid.as_simple().to_string()
}

fn cents(text: &str) -> i64 {
    let (whole, part) = text.split_once('.').unwrap();
    assert_eq!(part.len(), 2, "{text}");
    format!("{whole}{part}").parse().unwrap()
}

fn money(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

impl Model {
    fn law(&mut self, holds: bool, words: impl FnOnce() -> String) {
        if !holds {
            let words = words();
            self.broken.push(words);
        }
    }

    /// The agent has forgotten what it did not write down.
    pub(crate) fn agent_was_cut_off(&mut self) {
        self.known.clear();
        self.life += 1;
    }

    /// Of an earlier life, still under way when it was cut off: nobody waits for the answer.
    fn serve_the_dead(&mut self, method: &str, asked: &Report) {
        if method == "POST" {
            let _ = self.apply(asked);
        }
    }

    pub(crate) fn another_writes(&mut self, cell: Cell, cents: i64) {
        let (now, uuid) = (self.now, fresh());
        self.touched.insert(cell.clone());
        let row = self.rows.entry(cell).or_insert_with(|| Row {
            uuid,
            cents,
            date: now,
            users: BTreeMap::new(),
            other: None,
            told: false,
        });
        (row.cents, row.date, row.other, row.told) = (cents, now, Some(now), false);
    }

    /// What was under way for long arrives now. A server that ignores dates is reached before the month is out, or never.
    pub(crate) fn arrival(&mut self) -> bool {
        while let Some((since, report)) = self.late.pop_front() {
            if self.now.duration_since(since) <= UNDER_WAY {
                let _ = self.apply(&report);
                return true;
            }
        }
        false
    }

    pub(crate) fn nothing_is_under_way(&mut self) {
        self.late.clear();
    }

    /// The laws, where a report sets out.
    fn judge(&mut self, report: &Report) {
        if !report.target.ends_with("/set_usage/") {
            return;
        }
        let (resource, landing) = self.address(&report.body);
        let doubted = self.doubt.contains(&resource);
        self.law(!doubted, || format!("law 3: reported while an outcome is unknown: {}", report.body));
        let (mut news, now) = (false, self.now);
        for (component, cents) in amounts(&report.body) {
            let cell = ((resource, component), landing.clone());
            let total = self.total.get(&cell).copied();
            self.law(total == Some(cents), || {
                format!("law 1: {cents} for {cell:?}, where {total:?} was used")
            });
            news |= self.known.get(&cell) != Some(&cents);
            if let Some(row) = self.rows.get(&cell)
                && let Some(since) = row.other
                && ![0, cents].contains(&row.cents)
            {
                let old = now.duration_since(since) >= UNSEEN_FOR;
                let (told, held) = (row.told, row.cents);
                self.law(!told && !old, || {
                    format!(
                        "law 2: {cents} over another's {held} of {since}, told {told}, at {now}: {cell:?}"
                    )
                });
            }
        }
        self.law(news, || format!("law 4: all of it was known to be there: {}", report.body));
    }

    fn address(&self, body: &Value) -> (Uuid, String) {
        let resource = body["resource"].as_str().unwrap().parse().unwrap();
        let date = body["date"].as_str().filter(|_| self.dated).map(|date| date.parse().unwrap());
        (resource, month(date.unwrap_or(self.now)))
    }

    /// Does what the report asks; the status and body that go back.
    fn apply(&mut self, report: &Report) -> (u16, Value) {
        if !report.target.ends_with("/set_usage/") {
            return self.apply_shares(report);
        }
        let (resource, landing) = self.address(&report.body);
        let date: Option<Timestamp> = report.body["date"].as_str().map(|date| date.parse().unwrap());
        let date = date.filter(|_| self.dated).unwrap_or(self.now);
        if date > self.now {
            return (400, json!({ "date": ["Cannot be in the future."] }));
        }
        if landing != month(self.now) {
            return (400, json!({ "plan_period": ["Billing period is closed."] }));
        }
        for (component, cents) in amounts(&report.body) {
            let cell = ((resource, component), landing.clone());
            let was = self.once.get(&cell).is_some_and(|once| once.contains(&cents));
            self.law(was, || format!("law 1: {cents} arrived for {cell:?}, which never was"));
            let uuid = fresh();
            let row = self.rows.entry(cell).or_insert_with(|| Row {
                uuid,
                cents,
                date,
                users: BTreeMap::new(),
                other: None,
                told: false,
            });
            (row.cents, row.date, row.other) = (cents, date, None);
        }
        (201, Value::Null)
    }

    fn apply_shares(&mut self, report: &Report) -> (u16, Value) {
        let row = report.target.split('/').rev().nth(2).unwrap().parse::<Uuid>().unwrap();
        let Some(row) = self.rows.values_mut().find(|held| held.uuid == row) else {
            return (404, json!({ "detail": "No ComponentUsage matches the given query." }));
        };
        let one = [report.body.clone()];
        for share in report.body["usages"].as_array().map_or(&one[..], Vec::as_slice) {
            let (user, usage) = (share["username"].as_str().unwrap(), share["usage"].as_str().unwrap());
            row.users.insert(user.to_owned(), cents(usage));
        }
        (201, Value::Null)
    }

    fn read(&mut self, target: &str) -> (u16, Value) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let parts: Vec<&str> = path.trim_matches('/').split('/').skip(1).collect();
        let answer = match parts.as_slice() {
            ["users", "me"] => {
                json!({ "uuid": simple(Uuid::from_u128(1)), "username": "provider", "token_lifetime": null, "is_staff": false })
            }
            ["marketplace-provider-resources", resource] => self.resource(resource.parse().unwrap()),
            ["marketplace-provider-resources", _, "plan_periods"] => {
                json!([{ "uuid": "b47125af7b244347b4f1a1e091f03a98", "start": "2020-01-01T00:00:00Z", "end": null,
                         "components": [] }])
            }
            ["marketplace-provider-resources"] => {
                self.resources.clone().into_iter().map(|resource| self.resource(resource)).collect()
            }
            ["marketplace-provider-offerings", _] => {
                let component = |name: &str| json!({ "type": name, "name": name, "billing_type": "usage", "uuid": simple(fresh()) });
                json!({ "uuid": OFFERING, "name": "Cluster", "components": [component("cpu_hours"), component("ram_gb_hours")] })
            }
            ["marketplace-offering-users"] => json!([]),
            ["marketplace-component-usages"] => self.rows_of(query),
            _ => return (404, json!({ "detail": "Not found." })),
        };
        (200, answer)
    }

    fn resource(&self, resource: Uuid) -> Value {
        json!({ "uuid": simple(resource), "name": "A", "backend_id": "a", "state": "OK", "plan_name": "Standard",
                "plan_uuid": "4a7da410b5654ba7b6734aa92437d965", "offering_uuid": OFFERING, "offering_name": "Cluster" })
    }

    fn rows_of(&mut self, query: &str) -> Value {
        let asked = |key: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned)
        };
        let (resource, period) = (asked("resource_uuid"), asked("billing_period"));
        let mut rows = Vec::new();
        for (((of, component), month), row) in &mut self.rows {
            if resource.as_ref().is_some_and(|asked| *asked != simple(*of))
                || period.as_ref().is_some_and(|asked| asked[..7] != **month)
            {
                continue;
            }
            rows.push(json!({
                "uuid": simple(row.uuid), "type": component, "usage": money(row.cents), "resource_uuid": simple(*of),
                "billing_period": format!("{month}-01"), "date": row.date.to_string(), "recurring": false,
                "modified_by": if row.other.is_some() { 99 } else { 28 }, "missing_usage_policy": "none",
            }));
        }
        Value::Array(rows)
    }

    /// The answer was read by the agent: what it knows by it.
    fn delivered(&mut self, asked: &Report, status: u16) {
        let reads = asked.target.contains("/marketplace-component-usages/?");
        let resource =
            asked.target.split("resource_uuid=").nth(1).map(|rest| rest[..32].parse::<Uuid>().unwrap());
        if reads {
            let period = asked.target.split("billing_period=").nth(1).map(|rest| rest[..7].to_owned());
            for (cell, row) in &mut self.rows {
                let is_meant = resource.is_none_or(|resource| resource == cell.0.0)
                    && period.as_ref().is_none_or(|period| *period == cell.1);
                if is_meant {
                    row.told = true;
                    self.known.insert(cell.clone(), row.cents);
                }
            }
            match resource {
                Some(resource) => drop(self.doubt.remove(&resource)),
                None => self.doubt.clear(),
            }
        } else if asked.target.ends_with("/set_usage/") && status == 201 {
            let (resource, landing) = self.address(&asked.body);
            self.doubt.remove(&resource);
            for (component, cents) in amounts(&asked.body) {
                self.known.insert(((resource, component), landing.clone()), cents);
            }
        } else if asked.target.ends_with("/set_usage/") && status == 400 {
            self.doubt.remove(&self.address(&asked.body).0);
        }
    }

    /// What goes back for a request: status and body, and whether all of it, or nothing.
    fn serve(&mut self, method: &str, asked: &Report) -> Option<(u16, Value, bool)> {
        self.requests += 1;
        let fate = self.fates.pop_front().unwrap_or(Fate::Passes);
        let writes = method == "POST";
        if writes {
            self.judge(asked);
            if asked.target.ends_with("/set_usage/") {
                let (resource, landing) = self.address(&asked.body);
                self.doubt.insert(resource);
                for (component, _) in amounts(&asked.body) {
                    self.known.remove(&((resource, component), landing.clone()));
                }
            }
        }
        match fate {
            Fate::NeverArrives => return None,
            Fate::Fails => return Some((503, json!({ "detail": "out of order" }), true)),
            Fate::ArrivesLate if writes => {
                self.late.push_back((self.now, asked.clone()));
                return None;
            }
            _ => {}
        }
        let (status, answer) = if writes { self.apply(asked) } else { self.read(&asked.target) };
        match fate {
            Fate::ArrivesTwice if writes => {
                self.late.push_back((self.now, asked.clone()));
                None
            }
            Fate::Passes => {
                self.delivered(asked, status);
                Some((status, answer, true))
            }
            Fate::AnotherIsQuicker => {
                self.delivered(asked, status);
                if asked.target.ends_with("/set_usage/") && status == 201 {
                    let (resource, landing) = self.address(&asked.body);
                    for (component, cents) in amounts(&asked.body).into_iter().take(1) {
                        self.another_writes(((resource, component), landing.clone()), cents + 1);
                    }
                }
                Some((status, answer, true))
            }
            Fate::FailsAfterwards => Some((502, Value::Null, true)),
            // Half of a 201 without a body is all of it.
            Fate::HalfAnAnswer if answer.is_null() => {
                self.delivered(asked, status);
                Some((status, answer, true))
            }
            Fate::HalfAnAnswer => Some((status, answer, false)),
            _ => None,
        }
    }
}

fn amounts(body: &Value) -> Vec<(String, i64)> {
    let usages = body["usages"].as_array().unwrap().iter();
    let each = usages
        .map(|usage| (usage["type"].as_str().unwrap().to_owned(), cents(usage["amount"].as_str().unwrap())));
    each.collect()
}

fn fresh() -> Uuid {
    Uuid::from_u128(fastrand::u128(1..))
}

/// Accepts connections for ever.
pub(crate) async fn listen(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        tokio::spawn(talk(stream, shared.clone()));
    }
}

async fn talk(mut stream: TcpStream, shared: Arc<Shared>) {
    let life = shared.model().life;
    while let Some((method, asked)) = read_request(&mut stream).await {
        let (answer, now, cut) = {
            let mut model = shared.model();
            if model.life != life {
                return model.serve_the_dead(&method, &asked);
            }
            let cut = match &mut model.cut {
                Some((0, after)) => Some(*after),
                Some((left, _)) => {
                    *left -= 1;
                    None
                }
                None => None,
            };
            if cut == Some(false) {
                model.cut = None;
                drop(model);
                return shared.cut.notify_one();
            }
            (model.serve(&method, &asked), model.now, cut)
        };
        if cut == Some(true) {
            shared.model().cut = None;
            return shared.cut.notify_one();
        }
        let Some((status, body, whole)) = answer else { return };
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT");
        let mut text = format!(
            "HTTP/1.1 {status} X\r\nDate: {date}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        if !whole {
            text.truncate(text.len() - body.len() / 2);
        }
        if stream.write_all(text.as_bytes()).await.is_err() || !whole {
            return;
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<(String, Report)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
            });
            let body = &bytes[end + 4..];
            if body.len() >= length.unwrap_or(0) {
                let mut words = head.split(' ');
                let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
                return Some((
                    method,
                    Report { target, body: serde_json::from_slice(body).unwrap_or_default() },
                ));
            }
        }
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
        }
    }
}
