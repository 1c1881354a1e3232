//! Names of users and groups, for labels.
//!
//! A label is part of what tells one series from another, so a name must not change because a directory server is
//! away for a minute. A name once learnt is kept while the agent runs; a lookup that fails is an error, never a
//! guess. Only an id that the system says it does not know stands for itself, as a number: for one run, because it may
//! be known by the next.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use nix::unistd::{Gid, Group, Uid, User};

/// What is known of ids so far.
#[derive(Debug, Default)]
pub(super) struct Names {
    users: Mutex<HashMap<u32, String>>,
    groups: Mutex<HashMap<u32, String>>,
}

impl Names {
    pub(super) fn of_run(&self) -> OfRun<'_> {
        OfRun { names: self, unknown: RefCell::default() }
    }

    /// The name of a user, or the number if the system knows no such user. Blocks: it may ask a directory server.
    pub(super) fn user(&self, uid: u32) -> Result<String, String> {
        known_or(&self.users, uid, |uid| {
            User::from_uid(Uid::from_raw(uid)).map(|user| user.map(|user| user.name)).map_err(|error| {
                format!(
                    "the name of user {uid} could not be looked up ({error}): check `getent passwd {uid}`"
                )
            })
        })
    }

    /// The name of a group, or the number if the system knows no such group. Blocks likewise.
    pub(super) fn group(&self, gid: u32) -> Result<String, String> {
        known_or(&self.groups, gid, |gid| {
            Group::from_gid(Gid::from_raw(gid)).map(|group| group.map(|group| group.name)).map_err(|error| {
                format!(
                    "the name of group {gid} could not be looked up ({error}): check `getent group {gid}`"
                )
            })
        })
    }
}

/// What is known of ids in one run.
#[derive(Debug)]
pub(super) struct OfRun<'a> {
    names: &'a Names,
    unknown: RefCell<HashSet<u32>>,
}

impl OfRun<'_> {
    /// The name of a user. One that the system does not know is asked for once a run, whatever a run has of it.
    pub(super) fn user(&self, uid: u32) -> Result<String, String> {
        self.known_or(uid, |uid| self.names.user(uid))
    }

    fn known_or(
        &self,
        id: u32,
        look_up: impl FnOnce(u32) -> Result<String, String>,
    ) -> Result<String, String> {
        let number = id.to_string();
        if self.unknown.borrow().contains(&id) {
            return Ok(number);
        }
        let name = look_up(id)?;
        if name == number {
            self.unknown.borrow_mut().insert(id);
        }
        Ok(name)
    }
}

fn known_or(
    known: &Mutex<HashMap<u32, String>>,
    id: u32,
    look_up: impl FnOnce(u32) -> Result<Option<String>, String>,
) -> Result<String, String> {
    let mut known = known.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(name) = known.get(&id) {
        return Ok(name.clone());
    }
    match look_up(id)? {
        Some(name) => {
            known.insert(id, name.clone());
            Ok(name)
        }
        None => Ok(id.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_a_name_and_an_unknown_id_is_its_number() {
        let names = Names::default();
        assert_eq!(names.user(0).unwrap(), "root");
        assert_eq!(names.group(0).unwrap(), "root");
        assert_eq!(names.user(3_999_999_999).unwrap(), "3999999999");
    }

    #[test]
    fn an_unknown_id_is_looked_up_once_a_run() {
        let names = Names::default();
        let look_up = |asked: &RefCell<u32>, id: u32| {
            *asked.borrow_mut() += 1;
            Ok(if id == 7 { "alice".to_owned() } else { id.to_string() })
        };
        for _run in 0..2 {
            let (of_run, asked) = (names.of_run(), RefCell::new(0));
            for _ in 0..3 {
                assert_eq!(of_run.known_or(8, |id| look_up(&asked, id)).unwrap(), "8");
            }
            assert_eq!(*asked.borrow(), 1);
            assert_eq!(of_run.known_or(7, |id| look_up(&asked, id)).unwrap(), "alice");
            // An outage is none of it.
            assert!(of_run.known_or(9, |_| Err("down".to_owned())).is_err());
            assert_eq!(of_run.known_or(9, |id| look_up(&asked, id)).unwrap(), "9");
            assert_eq!(*asked.borrow(), 3);
        }
    }

    #[test]
    fn a_name_once_learnt_outlives_an_outage_of_the_directory() {
        let known = Mutex::default();
        assert_eq!(known_or(&known, 7, |_| Err("down".to_owned())), Err("down".to_owned()));
        assert_eq!(known_or(&known, 7, |_| Ok(Some("alice".to_owned()))).unwrap(), "alice");
        assert_eq!(known_or(&known, 7, |_| Err("down".to_owned())).unwrap(), "alice");
        assert_eq!(known_or(&known, 7, |_| Ok(None)).unwrap(), "alice");
    }
}
