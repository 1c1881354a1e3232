//! A proxy between agent and sandbox that does to the bytes of a call what networks do. The sandbox closes every
//! connection after its answer, so a connection is a call.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What happens once so many bytes of a call, or of its answer, have passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// Nothing more comes through, and nobody is told.
    Stalls,
    /// The connection is reset.
    Resets,
    /// The connection is closed as if all had been said.
    Truncates,
    /// The rest comes half a second later.
    Delays,
}

/// Where in the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    Byte(usize),
    /// So many are left.
    BeforeEnd(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    ToServer,
    ToAgent,
}

#[derive(Debug, Clone)]
pub struct Plan {
    /// A part of the request line.
    pub call: &'static str,
    pub way: Way,
    pub at: At,
    pub harm: Harm,
}

pub struct Proxy {
    pub address: String,
    plan: Arc<Mutex<Option<Plan>>>,
}

impl Proxy {
    pub fn before(server: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (plan, server) = (Arc::new(Mutex::new(None)), server.to_owned());
        let plans = plan.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (plans, server) = (plans.clone(), server.clone());
                // Whatever fails here is a connection that broke, which is what it is for.
                std::thread::spawn(move || stream.and_then(|agent| carry(agent, &server, &plans)));
            }
        });
        Proxy { address, plan }
    }

    pub fn does(&self, plan: Option<Plan>) {
        *self.plan.lock().unwrap() = plan;
    }
}

fn carry(mut agent: TcpStream, server: &str, plans: &Mutex<Option<Plan>>) -> std::io::Result<()> {
    let request = read_request(&mut agent)?;
    let line = String::from_utf8_lossy(&request).lines().next().unwrap_or_default().to_owned();
    let plan = plans.lock().unwrap().clone().filter(|plan| line.contains(plan.call));
    let harm = |way| plan.as_ref().filter(|plan| plan.way == way);
    let mut upstream = TcpStream::connect(server)?;
    if !pass(&request, &mut upstream, harm(Way::ToServer))? {
        return end(agent, plan);
    }
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer)?;
    if pass(&answer, &mut agent, harm(Way::ToAgent))? { Ok(()) } else { end(agent, plan) }
}

/// Passes bytes on up to where the harm is done. Whether all of them.
fn pass(bytes: &[u8], to: &mut TcpStream, plan: Option<&Plan>) -> std::io::Result<bool> {
    let Some(plan) = plan else { return to.write_all(bytes).map(|()| true) };
    let at = match plan.at {
        At::Byte(at) => at.min(bytes.len()),
        At::BeforeEnd(left) => bytes.len().saturating_sub(left),
    };
    let (first, rest) = bytes.split_at(at);
    to.write_all(first)?;
    to.flush()?;
    if plan.harm == Harm::Delays {
        super::pause(Duration::from_millis(500));
        to.write_all(rest)?;
    } else if plan.way == Way::ToServer {
        to.shutdown(Shutdown::Write)?;
    }
    Ok(plan.harm == Harm::Delays)
}

/// How the agent sees the end of it.
fn end(mut agent: TcpStream, plan: Option<Plan>) -> std::io::Result<()> {
    match plan.map(|plan| plan.harm) {
        // Until it gives up.
        Some(Harm::Stalls) => agent.read(&mut [0]).map(drop),
        // A socket that is closed for good without lingering sends a reset.
        Some(Harm::Resets) => {
            agent.set_nonblocking(true)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
            let _inside = runtime.enter();
            tokio::net::TcpStream::from_std(agent)?.set_zero_linger()
        }
        _ => Ok(()),
    }
}

fn read_request(agent: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
            });
            if body.len() >= length.unwrap_or(0) {
                return Ok(bytes);
            }
        }
        match agent.read(&mut buffer)? {
            0 => return Ok(bytes),
            read => bytes.extend_from_slice(&buffer[..read]),
        }
    }
}
