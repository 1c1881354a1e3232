//! How an amount, a month or a resource stands, worst first.

use clap::ValueEnum;

/// How an amount, a month or a resource stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum AmountState {
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
    /// What was used comes to 0.00, and nothing was reported.
    Unused,
    /// Only compared with what Waldur holds (`report: shadow`).
    Shadow,
}

impl AmountState {
    pub(super) const ALL: [AmountState; 7] = [
        AmountState::Held,
        AmountState::Parked,
        AmountState::Stranded,
        AmountState::Pending,
        AmountState::Agreed,
        AmountState::Unused,
        AmountState::Shadow,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            AmountState::Held => "held",
            AmountState::Parked => "parked",
            AmountState::Stranded => "stranded",
            AmountState::Pending => "pending",
            AmountState::Agreed => "agreed",
            AmountState::Unused => "unused",
            AmountState::Shadow => "shadow",
        }
    }

    /// Of a block, as the ledger keeps it.
    pub(super) fn of_block(state: &str) -> AmountState {
        match state {
            "parked" => AmountState::Parked,
            "stranded" => AmountState::Stranded,
            _ => AmountState::Held,
        }
    }
}
