//! The tree of a cluster's accounts, as `sacctmgr show assoc` lists it. It decides nothing: it only finds the account
//! under which another one lies.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};

/// Each account's parent.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    parents: HashMap<(String, String), String>,
    /// Of all that was listed.
    hash: u64,
}

/// No tree of accounts is deeper; one that goes round in circles would be.
const DEEPEST: usize = 100;

impl Accounts {
    /// Takes lines of `cluster|account|parent|user`. Later ones go before earlier ones.
    pub(super) fn add(&mut self, listing: &str) {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.hash);
        hasher.write(listing.as_bytes());
        self.hash = hasher.finish();
        for line in listing.lines() {
            let mut fields = line.split('|');
            let (Some(cluster), Some(account), Some(parent)) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            // Lines with a user say who is in the account, and have no parent.
            if fields.next().is_none_or(str::is_empty) {
                self.parents.insert((cluster.to_owned(), account.to_owned()), parent.to_owned());
            }
        }
    }

    /// Changes with the tree.
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    /// The account at this level above `account`, or itself if it lies no deeper. Level 1 is right below root.
    /// `None` if the account is not in the tree.
    pub(super) fn top<'a>(&'a self, cluster: &str, account: &'a str, level: usize) -> Option<&'a str> {
        let mut path = vec![account];
        let mut here = account;
        while path.len() < DEEPEST {
            let parent = self.parents.get(&(cluster.to_owned(), here.to_owned()))?;
            if parent.is_empty() {
                break;
            }
            path.push(parent);
            here = parent;
        }
        // From root (level 0) down.
        path.reverse();
        path.get(level).copied().or(Some(account))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "alpha|root||\nalpha|root||root\nalpha|top|root|\nalpha|proj-a|top|\nalpha|proj-a||alice\n\
                           alpha|sub-a|proj-a|\nalpha|sub-sub|sub-a|\nbeta|root||\nbeta|sub-a|root|\n";

    #[test]
    fn the_account_at_a_level_is_found_from_below() {
        let mut accounts = Accounts::default();
        accounts.add(LISTING);
        for (cluster, account, level, top) in [
            ("alpha", "sub-sub", 1, Some("top")),
            ("alpha", "sub-sub", 2, Some("proj-a")),
            ("alpha", "sub-a", 2, Some("proj-a")),
            ("alpha", "proj-a", 2, Some("proj-a")),
            ("alpha", "top", 2, Some("top")),
            ("alpha", "root", 2, Some("root")),
            ("alpha", "sub-sub", 4, Some("sub-sub")),
            ("beta", "sub-a", 1, Some("sub-a")),
            ("beta", "proj-a", 1, None),
            ("gamma", "root", 1, None),
        ] {
            assert_eq!(accounts.top(cluster, account, level), top, "{cluster} {account} {level}");
        }
    }

    #[test]
    fn what_is_there_goes_before_what_was_deleted() {
        let mut accounts = Accounts::default();
        accounts.add("alpha|root||\nalpha|a|root|\nalpha|x|a|\n");
        accounts.add("alpha|root||\nalpha|b|root|\nalpha|x|b|\n");
        assert_eq!(accounts.top("alpha", "x", 1), Some("b"));
        assert_eq!(accounts.top("alpha", "a", 1), Some("a"));
    }

    #[test]
    fn a_circle_has_an_end() {
        let mut accounts = Accounts::default();
        accounts.add("alpha|a|b|\nalpha|b|a|\n");
        assert!(accounts.top("alpha", "a", 1).is_some());
    }
}
