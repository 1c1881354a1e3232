//! The engine for many hosts: PostgreSQL, over one connection.
//!
//! The connection lives on a thread of its own, because its client waits for the network with a runtime of its own, which
//! must not be done inside another one. Statements are prepared once, with the types of their parameters, so that the
//! server has nothing to guess. A connection that broke is made anew at the next thing that is asked, but never within a
//! transaction: what that had done is undone by the server, and whoever is at it is told. One that does not answer at all is
//! left to itself, and another made in its place.

use std::cell::{Cell as StdCell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use postgres::types::private::BytesMut;
use postgres::types::{IsNull, Type, to_sql_checked};
use postgres::{Client, Row};

use super::error::{Error, Result};
use super::placeholders::numbered;
use super::value::{Cell, Param, Params};

/// Makes a connection: a new one at the beginning, and wherever one broke.
pub(in crate::ledger::db) type Connect = Arc<dyn Fn() -> std::result::Result<Client, Error> + Send + Sync>;

/// What the connection's thread is to do.
type Order = Box<dyn FnOnce(&mut Session) + Send>;

/// Parameters as the client takes them.
type Bound<'p> = [&'p (dyn postgres::types::ToSql + Sync)];

/// Every statement of the ledger is one of a few hundred; more than that would be texts made of data.
const STATEMENTS_KEPT: usize = 1000;

/// A connection is there in so long, or is not to be had.
const CONNECTED_WITHIN: Duration = Duration::from_secs(30);
/// Longer than the server may take for any statement: whatever takes longer hangs on the way.
const ANSWERED_WITHIN: Duration = Duration::from_secs(330);

pub(super) struct Connection {
    connect: Connect,
    orders: RefCell<mpsc::Sender<Order>>,
    patience: StdCell<Duration>,
    transaction: StdCell<Transaction>,
}

/// How far a transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transaction {
    None,
    Open,
    /// Something in it failed: the server takes nothing more but its end.
    Broken,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("transaction", &self.transaction).finish_non_exhaustive()
    }
}

/// What stays on the connection's thread.
struct Session {
    connect: Connect,
    /// `None` until something is asked.
    client: Option<Client>,
    prepared: HashMap<Arc<str>, postgres::Statement>,
}

impl Connection {
    pub(super) fn open(connect: Connect) -> Result<Connection> {
        let connection = Connection {
            orders: RefCell::new(start(connect.clone())),
            connect,
            patience: StdCell::new(CONNECTED_WITHIN),
            transaction: StdCell::new(Transaction::None),
        };
        connection.ask(|_| Ok(()))?;
        connection.set_answer_timeout(ANSWERED_WITHIN);
        Ok(connection)
    }

    /// From now on, what is not answered in so long is given up.
    pub(super) fn set_answer_timeout(&self, patience: Duration) {
        self.patience.set(patience);
    }

    pub(super) fn prepare(&self, sql: &str) -> Statement<'_> {
        Statement { connection: self, sql: numbered(sql).into() }
    }

    pub(super) fn execute_batch(&self, sql: &str) -> Result<()> {
        let sql = sql.to_owned();
        self.ask(move |session| Ok(session.client()?.batch_execute(&sql)?))
    }

    pub(super) fn is_autocommit(&self) -> bool {
        self.transaction.get() == Transaction::None
    }

    /// Begins a transaction, with what is to be done first in it.
    pub(super) fn begin(&self, first: &str) -> Result<()> {
        let begun = self.execute_batch(&format!("BEGIN; {first}"));
        self.transaction.set(Transaction::Open);
        if begun.is_err() {
            drop(self.roll_back());
        }
        begun
    }

    pub(super) fn commit(&self) -> Result<()> {
        // The server would call it done, and take it back.
        if self.transaction.get() == Transaction::Broken {
            self.roll_back()?;
            return Err(Error::Lost);
        }
        let done = self.execute_batch("COMMIT");
        self.transaction.set(Transaction::None);
        done
    }

    pub(super) fn roll_back(&self) -> Result<()> {
        let done = self.execute_batch("ROLLBACK");
        self.transaction.set(Transaction::None);
        // With its connection a transaction is gone, too.
        match done {
            Err(Error::Lost | Error::NoAnswer(_)) => Ok(()),
            Err(Error::Postgres(error)) if error.is_closed() => Ok(()),
            done => done,
        }
    }

    /// Lets the connection's thread do something, and waits for it.
    fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Session) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let within = !self.is_autocommit();
        let (tell, answer) = mpsc::channel();
        let order: Order = Box::new(move |session| {
            let done = match session.be_connected(within) {
                Ok(()) => work(session),
                Err(error) => Err(error),
            };
            drop(tell.send(done));
        });
        self.orders.borrow().send(order).map_err(|_| Error::Lost)?;
        let done = answer.recv_timeout(self.patience.get()).unwrap_or_else(|error| match error {
            RecvTimeoutError::Timeout => {
                // Its thread ends when it is answered after all, or finds that the connection broke.
                self.orders.replace(start(self.connect.clone()));
                Err(Error::NoAnswer(self.patience.get()))
            }
            RecvTimeoutError::Disconnected => Err(Error::Lost),
        });
        if within && done.is_err() {
            self.transaction.set(Transaction::Broken);
        }
        done
    }
}

/// A thread for a connection, which is made when something is asked.
fn start(connect: Connect) -> mpsc::Sender<Order> {
    let (orders, work) = mpsc::channel::<Order>();
    std::thread::spawn(move || {
        let mut session = Session { connect, client: None, prepared: HashMap::new() };
        for order in work {
            order(&mut session);
        }
    });
    orders
}

impl Session {
    fn be_connected(&mut self, within_transaction: bool) -> Result<()> {
        if self.client.as_ref().is_some_and(|client| !client.is_closed()) {
            return Ok(());
        }
        if within_transaction {
            return Err(Error::Lost);
        }
        self.prepared.clear();
        self.client = Some((self.connect)()?);
        Ok(())
    }

    fn client(&mut self) -> Result<&mut Client> {
        self.client.as_mut().ok_or(Error::Lost)
    }

    fn prepared(&mut self, sql: &Arc<str>, params: &[Owned]) -> Result<postgres::Statement> {
        if let Some(statement) = self.prepared.get(sql) {
            return Ok(statement.clone());
        }
        let types: Vec<Type> = params.iter().map(Owned::kind).collect();
        let statement = self.client()?.prepare_typed(sql, &types)?;
        if self.prepared.len() >= STATEMENTS_KEPT {
            self.prepared.clear();
        }
        self.prepared.insert(sql.clone(), statement.clone());
        Ok(statement)
    }
}

/// A statement; it is prepared when its parameters, and so their types, are known.
pub(in crate::ledger) struct Statement<'c> {
    connection: &'c Connection,
    sql: Arc<str>,
}

impl Statement<'_> {
    /// All rows at once: the next statement may be asked before they were read.
    pub(super) fn query(&mut self, params: &impl Params) -> Result<Vec<Row>> {
        self.ask(params, |client, statement, params| client.query(statement, params))
    }

    pub(super) fn execute(&mut self, params: &impl Params) -> Result<usize> {
        let changed = self.ask(params, |client, statement, params| client.execute(statement, params))?;
        Ok(usize::try_from(changed).unwrap_or(usize::MAX))
    }

    fn ask<T: Send + 'static>(
        &mut self,
        params: &impl Params,
        work: fn(&mut Client, &postgres::Statement, &Bound<'_>) -> std::result::Result<T, postgres::Error>,
    ) -> Result<T> {
        let mut owned = Vec::new();
        params.each(&mut |param| {
            owned.push(Owned::from(param));
            Ok(())
        })?;
        let sql = self.sql.clone();
        self.connection.ask(move |session| {
            let statement = session.prepared(&sql, &owned)?;
            if statement.params().len() != owned.len() {
                let wanted = statement.params().len();
                let given = owned.len();
                return Err(Error::unreadable(format!(
                    "{wanted} parameters are wanted, and {given} are given"
                )));
            }
            let params: Vec<&(dyn postgres::types::ToSql + Sync)> =
                owned.iter().map(|param| param as &(dyn postgres::types::ToSql + Sync)).collect();
            Ok(work(session.client()?, &statement, &params)?)
        })
    }
}

/// A parameter on its way to the connection's thread.
#[derive(Debug)]
enum Owned {
    Null,
    Integer(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
}

impl From<Param<'_>> for Owned {
    fn from(param: Param<'_>) -> Owned {
        match param {
            Param::Null => Owned::Null,
            Param::Integer(number) => Owned::Integer(number),
            // The one character that PostgreSQL does not keep.
            Param::Text(text) => Owned::Text(text.map(|text| text.replace('\0', "\u{fffd}"))),
            Param::Bytes(bytes) => Owned::Bytes(bytes.map(<[u8]>::to_vec)),
        }
    }
}

impl Owned {
    fn kind(&self) -> Type {
        match self {
            Owned::Null => Type::UNKNOWN,
            Owned::Integer(_) => Type::INT8,
            Owned::Text(_) => Type::TEXT,
            Owned::Bytes(_) => Type::BYTEA,
        }
    }
}

impl postgres::types::ToSql for Owned {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Owned::Null => Ok(IsNull::Yes),
            Owned::Integer(number) => number.to_sql(kind, out),
            Owned::Text(text) => text.to_sql(kind, out),
            Owned::Bytes(bytes) => bytes.to_sql(kind, out),
        }
    }

    fn accepts(kind: &Type) -> bool {
        [Type::INT8, Type::TEXT, Type::BYTEA].contains(kind)
    }

    to_sql_checked!();
}

/// A value of a row.
pub(super) fn cell(row: &Row, column: usize) -> Result<Cell<'_>> {
    let Some(kind) = row.columns().get(column).map(|column| column.type_()) else {
        return Err(Error::unreadable("there is no such column"));
    };
    fn or_null<'r, T>(value: Option<T>, cell: impl FnOnce(T) -> Cell<'r>) -> Cell<'r> {
        value.map_or(Cell::Null, cell)
    }
    Ok(match *kind {
        Type::INT8 => or_null(row.try_get(column)?, Cell::Integer),
        Type::INT4 => or_null(row.try_get(column)?, |number: i32| Cell::Integer(number.into())),
        Type::BOOL => or_null(row.try_get(column)?, |yes: bool| Cell::Integer(yes.into())),
        Type::BYTEA => or_null(row.try_get(column)?, Cell::Bytes),
        _ => or_null(row.try_get(column)?, Cell::Text),
    })
}
