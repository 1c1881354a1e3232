//! Why something is not sent: a closed list, the same words in the ledger, in `status`, in metrics and in the docs.

use crate::ledger::sent::blocked::Block;
use jiff::Timestamp;

/// What kind of waiting it is (design, section 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not sent until a person or a changed state allows it.
    Held,
    /// Refused for good by the server; waits for a person.
    Parked,
    /// Usage of a month that can no longer be reported.
    Stranded,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Held => "held",
            State::Parked => "parked",
            State::Stranded => "stranded",
        }
    }
}

/// Whether something waits for a person. What only the closing of a month left does not.
pub fn waits(block: &Block) -> bool {
    block.reason != Reason::ClosingRest.name()
}

/// Every reason there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The server holds a value that this agent did not write.
    Conflict,
    /// The same, of a component that can't be adopted.
    Unadoptable,
    /// The server holds other shares of users than this agent reported.
    Shares,
    /// The server holds an amount that no rule makes any more, or would hold one usage twice.
    RulesChanged,
    /// Two collectors count the same readings into one component.
    SameIds,
    /// Several resources that live have one backend id.
    SeveralResources,
    /// The server's row can't be read.
    Unreadable,
    /// The resource is being created or has erred.
    ResourceState,
    /// Waldur does not know the resource, or this token may not see it.
    UnknownResource,
    /// The resource has no plan, so nothing of it can be billed.
    NoPlan,
    /// A limit of the component or of the user.
    Limit,
    /// A server error that comes back for this resource only.
    ServerError,
    /// The offering has no such component, or one that is not reported by use.
    UnknownComponent,
    /// The number itself was refused, or can't be posted at all.
    Amount,
    /// Anything else that the server would not take.
    Refused,
    /// The month is over, and the token may no longer report it.
    PeriodEnded,
    /// The month is over, and what is left is what was used after its last report: so much every closing leaves.
    ClosingRest,
    /// The month is over and its total is as it should be, but a user's share of it is not.
    LateShare,
    /// The month is over, and the server refused to have it reported all the same (`late: backfill`).
    LateRefused,
    /// The plan period is over, and another report of it would be billed beside the first.
    PlanEnded,
    /// More of the month is on the bill than was used, in another month or under another plan, and nothing is left that it could
    /// be taken from.
    TooMuch,
    /// The resource is terminated.
    Terminated,
    /// The server filed the report in another month than was meant.
    WrongMonth,
}

impl Reason {
    pub const ALL: [Reason; 23] = [
        Reason::Conflict,
        Reason::Unadoptable,
        Reason::Shares,
        Reason::RulesChanged,
        Reason::SameIds,
        Reason::SeveralResources,
        Reason::Unreadable,
        Reason::ResourceState,
        Reason::UnknownResource,
        Reason::NoPlan,
        Reason::Limit,
        Reason::ServerError,
        Reason::UnknownComponent,
        Reason::Amount,
        Reason::Refused,
        Reason::PeriodEnded,
        Reason::ClosingRest,
        Reason::LateShare,
        Reason::LateRefused,
        Reason::PlanEnded,
        Reason::TooMuch,
        Reason::Terminated,
        Reason::WrongMonth,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Reason::Conflict => "conflict",
            Reason::Unadoptable => "conflict_overwrite",
            Reason::Shares => "conflict_shares",
            Reason::RulesChanged => "rules_changed",
            Reason::SameIds => "same_ids",
            Reason::SeveralResources => "several_resources",
            Reason::Unreadable => "unreadable",
            Reason::ResourceState => "resource_state",
            Reason::UnknownResource => "unknown_resource",
            Reason::NoPlan => "no_plan",
            Reason::Limit => "limit",
            Reason::ServerError => "server_error",
            Reason::UnknownComponent => "unknown_component",
            Reason::Amount => "amount",
            Reason::Refused => "refused",
            Reason::PeriodEnded => "period_ended",
            Reason::ClosingRest => "closing_rest",
            Reason::LateShare => "late_share",
            Reason::LateRefused => "late_refused",
            Reason::PlanEnded => "plan_ended",
            Reason::TooMuch => "too_much",
            Reason::Terminated => "terminated",
            Reason::WrongMonth => "wrong_month",
        }
    }

    /// Whether it is about a number that another wrote.
    pub fn is_of_another_writer(self) -> bool {
        matches!(self, Reason::Conflict | Reason::Unadoptable | Reason::Shares)
    }

    /// Whether the amount beside it is what was used, which grows while nothing about its cause changes. The others have a number of
    /// Waldur's, or of a month that is over: another one is news.
    pub fn grows(self) -> bool {
        matches!(
            self,
            Reason::ResourceState
                | Reason::UnknownResource
                | Reason::NoPlan
                | Reason::Limit
                | Reason::ServerError
                | Reason::UnknownComponent
                | Reason::Amount
                | Reason::Refused
                | Reason::Terminated
        )
    }

    pub fn state(self) -> State {
        match self {
            Reason::UnknownComponent | Reason::Amount | Reason::Refused => State::Parked,
            Reason::PeriodEnded
            | Reason::ClosingRest
            | Reason::LateShare
            | Reason::LateRefused
            | Reason::PlanEnded
            | Reason::TooMuch
            | Reason::Terminated => State::Stranded,
            _ => State::Held,
        }
    }

    /// What the operator can do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Reason::Conflict => {
                "find out who reports this resource beside this agent, and stop it; then `resolve RESOURCE adopt` goes on \
                 from what Waldur holds, and `resolve RESOURCE overwrite` makes Waldur agree with the ledger"
            }
            Reason::Unadoptable | Reason::Shares => {
                "find out who reports this resource beside this agent, and stop it; then `resolve RESOURCE overwrite` makes \
                 Waldur agree with the ledger (it can't go on from what Waldur holds)"
            }
            Reason::RulesChanged => {
                "`resolve RESOURCE overwrite` makes Waldur agree with the rules that hold now; or set the rules right: it \
                 then goes on by itself"
            }
            Reason::SameIds => {
                "let one collector count it (`not_if`, or take the meter away from the other); or, where it is not the \
                 same usage, `resolve RESOURCE overwrite`"
            }
            Reason::SeveralResources => "correct the backend ids in Waldur; it then goes on by itself",
            Reason::Unreadable => "ask Waldur's operator to look at the row; it is tried again by itself",
            Reason::ResourceState => {
                "it is tried again by itself when the resource is OK, Updating or Terminating"
            }
            Reason::UnknownResource => {
                "check the UUID in `resource:` and the token's role on the offering, then `parked retry`"
            }
            Reason::NoPlan => {
                "see that the resource has a plan, and an open plan period, in Waldur; it then goes on by itself"
            }
            Reason::Limit => "raise the limit in Waldur, then `parked retry`",
            Reason::ServerError => {
                "ask the server's operator to look at its log for this resource, then `parked retry`"
            }
            Reason::UnknownComponent => {
                "correct the meter's name, or add the component to the offering in Waldur, then `parked retry`"
            }
            Reason::Amount => {
                "check the meter's factor and its readings (`collect --dry-run`), then `parked retry`"
            }
            Reason::Refused => {
                "read the server's message, fix its cause in Waldur or in the configuration, then `parked retry`"
            }
            Reason::PeriodEnded => {
                "have Waldur's staff bill (or credit) it by hand, then `parked drop` it; or let `submit: { late: ... }` deal with it"
            }
            Reason::ClosingRest => {
                "no action needed: `submit: { late: ... }` says how it is billed, and `parked drop` gives it up"
            }
            Reason::LateShare => {
                "nothing is to be billed by hand: the total is right, only how it is shared among users is not. `submit: { late: \
                 backfill }` reports the share; `parked drop` leaves it as Waldur holds it"
            }
            Reason::TooMuch => {
                "have Waldur's staff credit it by hand, then `parked drop` it; with `late: carry_forward` it is taken away by itself \
                 as soon as more is used"
            }
            Reason::Terminated => {
                "only Waldur's staff can bill (or credit) it now, by hand; then `parked drop` it. The amounts stay in the \
                 ledger; if the resource is active again in Waldur, those of the running month are \
                 tried again by themselves, and of others with `parked retry`"
            }
            Reason::LateRefused => {
                "only Waldur's staff can bill (or credit) it now, by hand; then `parked drop` it. The amounts stay in the ledger"
            }
            Reason::PlanEnded => {
                "what is too much there is taken away by itself, as far as the plan that the month goes on with has as much. What is \
                 missing, or still too much when the month is over, only Waldur's staff can bill (or credit), by hand; then `parked \
                 drop` it. The amounts stay in the ledger"
            }
            Reason::WrongMonth => {
                "set `billing_timezone` to the server's time zone, have the misfiled row corrected in Waldur, then `parked retry`"
            }
        }
    }

    /// The same in a few words; `name`: how commands name the resource.
    pub fn in_short(self, name: &str) -> String {
        match self {
            Reason::Conflict => format!("`resolve {name} adopt | overwrite`"),
            Reason::Unadoptable | Reason::Shares | Reason::RulesChanged | Reason::SameIds => {
                format!("`resolve {name} overwrite`, or fix its cause: `parked list`")
            }
            Reason::SeveralResources => "correct the backend ids in Waldur".to_owned(),
            Reason::Unreadable => "ask Waldur's operator to look at the row".to_owned(),
            Reason::ResourceState => {
                "it is tried again by itself when the resource is OK, Updating or Terminating".to_owned()
            }
            Reason::UnknownResource => {
                format!("check `resource:` and the token's role, then `parked retry {name}`")
            }
            Reason::NoPlan => "give the resource a plan in Waldur".to_owned(),
            Reason::Limit => {
                format!("raise the limit, then `parked retry {name}`; or `resolve {name} overwrite`")
            }
            Reason::ServerError => format!("see the server's log, then `parked retry {name}`"),
            Reason::UnknownComponent => {
                format!("correct the meter or the offering, then `parked retry {name}`")
            }
            Reason::Amount => format!("check the factor and the readings, then `parked retry {name}`"),
            Reason::Refused => format!("mend what the server says, then `parked retry {name}`"),
            Reason::PeriodEnded => {
                format!("bill it by hand, then `parked drop {name}`; or set `submit: {{ late: ... }}`")
            }
            Reason::ClosingRest => "no action needed".to_owned(),
            Reason::LateShare => {
                format!("nothing to bill: the total is right; `parked drop {name}` leaves the share as it is")
            }
            Reason::TooMuch => format!("credit it by hand, then `parked drop {name}`"),
            Reason::Terminated => {
                format!(
                    "bill it by hand, then `parked drop {name}`; it goes on by itself if the resource is active again"
                )
            }
            Reason::LateRefused => format!("bill it by hand, then `parked drop {name}`"),
            Reason::PlanEnded => format!(
                "what is too much is taken away by itself in its month; the rest: bill it by hand, then `parked drop {name}`"
            ),
            Reason::WrongMonth => {
                format!("set `billing_timezone`, correct the row in Waldur, then `parked retry {name}`")
            }
        }
    }

    pub fn named(name: &str) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.name() == name)
    }

    /// The block as the ledger keeps it.
    pub fn block(self, words: impl Into<String>, since: Timestamp) -> Block {
        Block {
            state: self.state().name().to_owned(),
            reason: self.name().to_owned(),
            words: words.into(),
            since,
        }
    }
}
