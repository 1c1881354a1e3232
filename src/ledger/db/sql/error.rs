//! What can go wrong with a statement, whichever engine it was sent to.

/// Why a statement came to nothing. What that means for an operator: db/error.rs.
#[derive(Debug, thiserror::Error)]
pub(in crate::ledger) enum Error {
    /// There is no row where one was wanted.
    #[error("no row was found")]
    NoRow,
    /// Something that is kept is not as this program writes it, or can't be kept.
    #[error("{0}")]
    Unreadable(Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Sqlite(rusqlite::Error),
    #[error(transparent)]
    Postgres(postgres::Error),
    /// The connection broke, and with it the transaction that was open.
    #[error("the connection broke in the middle of a transaction, which was undone")]
    Lost,
    /// What it came to is not known, but for a transaction that was open: that is undone.
    #[error("no answer within {} s", .0.as_secs())]
    NoAnswer(std::time::Duration),
    /// No connection can be made as the configuration says it.
    #[error("{0}")]
    NoWay(String),
}

pub(in crate::ledger) type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(in crate::ledger) fn unreadable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Error::Unreadable(error.into())
    }

    /// Whether it is about what was to be kept or was read, and would be the same the next time: PostgreSQL's classes 22 (data)
    /// and 54 (a limit is exceeded), SQLite's values that are too long or of another type.
    pub(in crate::ledger) fn is_of_the_data(&self) -> bool {
        use rusqlite::{Error as Sqlite, ErrorCode};
        match self {
            Error::Unreadable(_) => true,
            Error::Postgres(error) => error
                .code()
                .is_some_and(|code| ["22", "54"].iter().any(|class| code.code().starts_with(class))),
            Error::Sqlite(Sqlite::SqliteFailure(failure, _)) => {
                matches!(failure.code, ErrorCode::TooBig | ErrorCode::TypeMismatch)
            }
            Error::Sqlite(Sqlite::FromSqlConversionFailure(..) | Sqlite::InvalidColumnType(..)) => true,
            _ => false,
        }
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Error::Sqlite(error)
    }
}

impl From<postgres::Error> for Error {
    fn from(error: postgres::Error) -> Self {
        Error::Postgres(error)
    }
}

/// Where no row is an answer, too.
pub(in crate::ledger) trait OptionalExtension<T> {
    fn optional(self) -> Result<Option<T>>;
}

impl<T> OptionalExtension<T> for Result<T> {
    fn optional(self) -> Result<Option<T>> {
        match self {
            Err(Error::NoRow) => Ok(None),
            other => other.map(Some),
        }
    }
}
