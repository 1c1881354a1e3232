//! Exit codes, as sysexits.h has them. Of several that apply, the first in this list is told.

use crate::waldur::failure::Failure;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// 78: the configuration, or the ledger's file, can't be used.
    Config,
    /// 77: the token was refused, or may not do what is needed.
    Token,
    /// 69: a collector failed.
    Collector,
    /// 75: something is still pending, or the server is left alone after a failure; trying again may help.
    Pending,
    /// 65: something is parked, held or stranded, and waits for a person.
    Stuck,
    /// 64: the command line itself.
    Usage,
    /// 1: `recount` found a difference.
    Differs,
    /// 0.
    Ok,
}

impl Exit {
    /// Every one, the first that applies first.
    pub const ALL: [Exit; 8] = [
        Exit::Config,
        Exit::Token,
        Exit::Collector,
        Exit::Pending,
        Exit::Stuck,
        Exit::Usage,
        Exit::Differs,
        Exit::Ok,
    ];

    pub fn code(self) -> u8 {
        match self {
            Exit::Config => 78,
            Exit::Token => 77,
            Exit::Collector => 69,
            Exit::Pending => 75,
            Exit::Stuck => 65,
            Exit::Usage => 64,
            Exit::Differs => 1,
            Exit::Ok => 0,
        }
    }
}

/// Why a command could not do its work, in words for the operator.
#[derive(Debug)]
pub struct Failed {
    pub exit: Exit,
    pub message: String,
    /// Whoever read our output has gone.
    pub broken_pipe: bool,
}

impl Failed {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Failed { exit, message: message.into(), broken_pipe: false }
    }
}

impl From<crate::ledger::LedgerError> for Failed {
    fn from(error: crate::ledger::LedgerError) -> Self {
        let exit = match error.kind {
            crate::ledger::LedgerErrorKind::Unusable | crate::ledger::LedgerErrorKind::Forbidden => {
                Exit::Config
            }
            crate::ledger::LedgerErrorKind::Passing | crate::ledger::LedgerErrorKind::Superseded => {
                Exit::Pending
            }
        };
        Failed::new(exit, error.to_string())
    }
}

impl From<crate::submitter::CycleError> for Failed {
    fn from(error: crate::submitter::CycleError) -> Self {
        match error {
            crate::submitter::CycleError::Ledger(error) => error.into(),
        }
    }
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        let broken_pipe = error.kind() == std::io::ErrorKind::BrokenPipe;
        Failed { broken_pipe, ..Failed::new(Exit::Pending, format!("can't write the output: {error}")) }
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        let exit = match &failure {
            Failure::Token { .. } | Failure::Forbidden { .. } => Exit::Token,
            Failure::Missing { .. } | Failure::Refused { .. } => Exit::Stuck,
            Failure::Endpoint { .. } | Failure::Redirected { .. } => Exit::Config,
            _ => Exit::Pending,
        };
        Failed::new(exit, failure.to_string())
    }
}
