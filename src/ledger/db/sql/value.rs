//! What goes into a statement and comes out of a row: integers, texts and bytes, each of which may be missing.
//!
//! An engine binds a `Param` and shows a `Cell`; which Rust types those are is said here, once for all engines. Texts are
//! borrowed in both directions: only who keeps one copies it.

use std::borrow::Cow;

use super::error::{Error, Result};

/// A parameter of a statement. Also one that is missing has a type: PostgreSQL wants to know it.
#[derive(Debug, Clone, Copy)]
pub(in crate::ledger) enum Param<'a> {
    /// Of a type that only the statement tells.
    Null,
    Integer(Option<i64>),
    Text(Option<&'a str>),
    Bytes(Option<&'a [u8]>),
}

/// What can be a parameter.
pub(in crate::ledger) trait ToSql {
    fn to_sql(&self) -> Param<'_>;
}

/// The parameter of this type that is missing.
pub(in crate::ledger) trait Missing {
    const MISSING: Param<'static>;
}

/// Types that are this kind of parameter.
macro_rules! is_param {
    ($kind:ident: $($type:ty, $value:ident => $of:expr);+) => {$(
        impl ToSql for $type {
            fn to_sql(&self) -> Param<'_> {
                let $value = self;
                Param::$kind(Some($of))
            }
        }

        impl Missing for $type {
            const MISSING: Param<'static> = Param::$kind(None);
        }
    )+};
}

is_param!(Integer: i64, number => *number; bool, yes => i64::from(*yes));
is_param!(Text: str, text => text; String, text => text.as_str(); Cow<'_, str>, text => text.as_ref());
is_param!(Bytes: [u8; 16], bytes => bytes.as_slice());

impl<T: ToSql + ?Sized> ToSql for &T {
    fn to_sql(&self) -> Param<'_> {
        (**self).to_sql()
    }
}

impl<T: Missing + ?Sized> Missing for &T {
    const MISSING: Param<'static> = T::MISSING;
}

impl<T: ToSql + Missing> ToSql for Option<T> {
    fn to_sql(&self) -> Param<'_> {
        self.as_ref().map_or(T::MISSING, ToSql::to_sql)
    }
}

/// The parameters of a statement: `[]`, several of one type, or `params![...]`.
pub(in crate::ledger) trait Params {
    /// Hands each to `bind`, in order.
    fn each(&self, bind: &mut dyn FnMut(Param<'_>) -> Result<()>) -> Result<()>;
}

impl Params for [&dyn ToSql; 0] {
    fn each(&self, _: &mut dyn FnMut(Param<'_>) -> Result<()>) -> Result<()> {
        Ok(())
    }
}

impl Params for &[&dyn ToSql] {
    fn each(&self, bind: &mut dyn FnMut(Param<'_>) -> Result<()>) -> Result<()> {
        self.iter().try_for_each(|param| bind(param.to_sql()))
    }
}

/// Arrays of one type. Not for every length at once, or nobody could say of which type `[]` is.
macro_rules! are_params {
    ($($length:literal)+) => {$(
        impl<T: ToSql> Params for [T; $length] {
            fn each(&self, bind: &mut dyn FnMut(Param<'_>) -> Result<()>) -> Result<()> {
                self.iter().try_for_each(|param| bind(param.to_sql()))
            }
        }
    )+};
}

are_params!(1 2 3 4);

/// Parameters of different types.
macro_rules! params {
    ($($param:expr),* $(,)?) => {
        &[$(&$param as &dyn $crate::ledger::db::sql::ToSql),*] as &[&dyn $crate::ledger::db::sql::ToSql]
    };
}
pub(in crate::ledger) use params;

/// A value in a row.
#[derive(Debug, Clone, Copy)]
pub(in crate::ledger) enum Cell<'a> {
    Null,
    Integer(i64),
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl<'a> Cell<'a> {
    pub(in crate::ledger) fn as_str(self) -> Result<&'a str> {
        match self {
            Cell::Text(text) => Ok(text),
            _ => self.is_no("text"),
        }
    }

    pub(in crate::ledger) fn as_str_or_null(self) -> Result<Option<&'a str>> {
        match self {
            Cell::Null => Ok(None),
            _ => self.as_str().map(Some),
        }
    }

    fn as_i64(self) -> Result<i64> {
        match self {
            Cell::Integer(number) => Ok(number),
            _ => self.is_no("integer"),
        }
    }

    fn is_no<T>(self, wanted: &str) -> Result<T> {
        let is = match self {
            Cell::Null => "nothing",
            Cell::Integer(_) => "an integer",
            Cell::Text(_) => "text",
            Cell::Bytes(_) => "bytes",
        };
        Err(Error::unreadable(format!("it holds {is} and no {wanted}")))
    }
}

/// What a value of a row can be taken for.
pub(in crate::ledger) trait FromSql: Sized {
    fn from_sql(cell: Cell<'_>) -> Result<Self>;
}

impl FromSql for i64 {
    fn from_sql(cell: Cell<'_>) -> Result<Self> {
        cell.as_i64()
    }
}

impl FromSql for bool {
    fn from_sql(cell: Cell<'_>) -> Result<Self> {
        Ok(cell.as_i64()? != 0)
    }
}

impl FromSql for String {
    fn from_sql(cell: Cell<'_>) -> Result<Self> {
        cell.as_str().map(str::to_owned)
    }
}

impl FromSql for Vec<u8> {
    fn from_sql(cell: Cell<'_>) -> Result<Self> {
        match cell {
            Cell::Bytes(bytes) => Ok(bytes.to_vec()),
            _ => cell.is_no("bytes"),
        }
    }
}

impl<T: FromSql> FromSql for Option<T> {
    fn from_sql(cell: Cell<'_>) -> Result<Self> {
        match cell {
            Cell::Null => Ok(None),
            _ => T::from_sql(cell).map(Some),
        }
    }
}
