//! What happened: the last ten thousand events, which a reader can follow over restarts of both sides.

use std::fmt;
use std::str::FromStr;

use redb::{ReadableTable, ReadableTableMetadata};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::schema::{self, AT_NEXT_EVENT, EVENTS, META};
use crate::state::{State, Write};

/// So many events are kept; older ones go as newer ones come.
pub const KEPT_EVENTS: u64 = 10_000;

/// Something that happened, with its cause.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When, in milliseconds since 1970, by the clock on the wall: for people. The order is that of writing.
    pub at_unix_ms: u64,
    /// What kind of thing: `rollout`, `exit`, `stop` and so on.
    pub kind: String,
    /// About which service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// About which instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// In a sentence.
    pub text: String,
}

/// Where a reader is. Text that means nothing to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    identity: String,
    number: u64,
}

/// A text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no token of an event")]
pub struct InvalidToken;

/// Some events, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Events {
    /// Each with the token to go on after it.
    pub events: Vec<(Token, Event)>,
    /// Go on after this one. Without events, the one that was given if it is still good.
    pub next: Token,
    /// Events after the token that was given are not kept any more, or it is of another state.
    pub missed: bool,
}

// === impl Token ===

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.identity, self.number)
    }
}

impl FromStr for Token {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let (identity, number) = text.split_once('-').ok_or(InvalidToken)?;
        let hex = identity.len() == 16 && identity.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        let number = number.parse().ok().filter(|_| hex && digits).ok_or(InvalidToken)?;
        Ok(Self { identity: identity.into(), number })
    }
}

// === reading and writing ===

impl State {
    /// At most `most` events after a token, or, without one, from the oldest that is kept.
    ///
    /// # Errors
    /// The database refuses.
    pub fn events(&self, after: Option<&Token>, most: usize) -> Result<Events, Error> {
        let read = self.reading()?;
        let next: u64 = schema::meta(&read.open_table(META)?, AT_NEXT_EVENT)?.unwrap_or(1);
        let table = read.open_table(EVENTS)?;
        let oldest = table.first()?.map_or(next, |(number, _)| number.value());
        let good = after.filter(|token| {
            token.identity == self.folder.identity && token.number < next && token.number + 1 >= oldest
        });
        let from = good.map_or(oldest, |token| token.number + 1);
        let token = |number| Token { identity: self.folder.identity.clone(), number };
        let mut events = Vec::new();
        for entry in table.range(from..)?.take(most) {
            let (number, value) = entry?;
            let event = schema::decode("events", number.value().to_string(), value.value())?;
            events.push((token(number.value()), event));
        }
        let last = events.last().map_or(from - 1, |(token, _)| token.number);
        Ok(Events { events, next: token(last), missed: after.is_some() && good.is_none() })
    }
}

impl State {
    /// The number that the next event gets: those that were lost are not given again.
    ///
    /// # Errors
    /// The database refuses.
    pub fn next_event(&self) -> Result<u64, Error> {
        let read = self.reading()?;
        let next: u64 = schema::meta(&read.open_table(META)?, AT_NEXT_EVENT)?.unwrap_or(1);
        Ok(next.max(self.folder.floor.next_event))
    }

    /// The last so many events, oldest first, each with its number.
    ///
    /// # Errors
    /// The database refuses.
    pub fn last_events(&self, most: usize) -> Result<Vec<(u64, Event)>, Error> {
        let read = self.reading()?;
        let mut last = Vec::new();
        for entry in read.open_table(EVENTS)?.iter()?.rev().take(most) {
            let (number, value) = entry?;
            let event = schema::decode("events", number.value().to_string(), value.value())?;
            last.push((number.value(), event));
        }
        last.reverse();
        Ok(last)
    }
}

impl Write<'_> {
    /// Takes down what happened. The oldest events make room.
    ///
    /// # Errors
    /// The database refuses.
    pub fn event(&mut self, event: &Event) -> Result<Token, Error> {
        let mut meta = self.transaction.open_table(META)?;
        let number: u64 = schema::meta(&meta, AT_NEXT_EVENT)?.unwrap_or(1).max(self.folder.floor.next_event);
        meta.insert(AT_NEXT_EVENT, schema::encode(&(number + 1)).as_slice())?;
        let mut table = self.transaction.open_table(EVENTS)?;
        table.insert(number, schema::encode(event).as_slice())?;
        while table.len()? > KEPT_EVENTS {
            table.pop_first()?;
        }
        Ok(Token { identity: self.identity.to_owned(), number })
    }
}
