//! One word for how something stands, worst first.

use clap::ValueEnum;

/// How an amount, a month or a resource stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Word {
    /// Not sent until a person or a changed state allows it.
    Held,
    /// Refused for good by the server.
    Parked,
    /// Of a month that can no longer be reported.
    Stranded,
    /// To be sent.
    Pending,
    /// Waldur holds what the ledger has.
    Agreed,
    /// Nothing was used, and nothing reported.
    Unused,
    /// Only compared with what Waldur holds (`report: shadow`).
    Shadow,
}

impl Word {
    pub(super) const ALL: [Word; 7] =
        [Word::Held, Word::Parked, Word::Stranded, Word::Pending, Word::Agreed, Word::Unused, Word::Shadow];

    pub(super) fn name(self) -> &'static str {
        match self {
            Word::Held => "held",
            Word::Parked => "parked",
            Word::Stranded => "stranded",
            Word::Pending => "pending",
            Word::Agreed => "agreed",
            Word::Unused => "unused",
            Word::Shadow => "shadow",
        }
    }

    /// Of a block, as the ledger keeps it.
    pub(super) fn of_block(state: &str) -> Word {
        match state {
            "parked" => Word::Parked,
            "stranded" => Word::Stranded,
            _ => Word::Held,
        }
    }
}
