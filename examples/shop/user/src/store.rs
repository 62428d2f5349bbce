//! Accounts as a table, behind async methods; each is one transaction.

use rusqlite::{Connection, OptionalExtension, Row, params};
use shop_database::Database;

/// The n-th script takes the schema from version n-1 to n; only ever add to the end.
pub(crate) const MIGRATIONS: &[&str] = &["
    CREATE TABLE users (
        id TEXT PRIMARY KEY,
        email TEXT NOT NULL UNIQUE, -- in lower case
        password_hash TEXT NOT NULL,
        name TEXT NOT NULL,
        street TEXT, -- the four parts of an address: all or none
        city TEXT,
        postal_code TEXT,
        country TEXT,
        created_at INTEGER NOT NULL
    ) STRICT;
"];

/// A handle of the accounts. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    database: Database,
}

/// An account, without its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) id: String,
    pub(crate) email: String,
    pub(crate) name: String,
    pub(crate) address: Option<Address>,
    /// Seconds since the Unix epoch.
    pub(crate) created_at: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) street: String,
    pub(crate) city: String,
    pub(crate) postal_code: String,
    pub(crate) country: String,
}

/// What to change of a profile.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    pub(crate) name: Option<String>,
    /// `Some(None)` takes the address away.
    pub(crate) address: Option<Option<Address>>,
}

/// Who logs in, and what to compare the password with.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    pub(crate) user_id: String,
    pub(crate) password_hash: String,
}

/// Why an account was not opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegisterError {
    #[error("the email has an account")]
    EmailTaken,
    #[error("use the accounts")]
    Database(#[from] shop_database::Error),
}

const COLUMNS: &str = "id, email, name, street, city, postal_code, country, created_at";

// === impl Store ===

impl Store {
    pub(crate) fn new(database: Database) -> Self {
        Self { database }
    }

    pub(crate) async fn register(&self, user: User, password_hash: String) -> Result<(), RegisterError> {
        self.database
            .write(move |tx| {
                let inserted = tx
                    .execute(
                        "INSERT INTO users (id, email, password_hash, name, created_at) VALUES (?1, ?2, ?3, ?4, ?5)
                         ON CONFLICT (email) DO NOTHING",
                        params![user.id, user.email, password_hash, user.name, user.created_at],
                    )
                    .map_err(shop_database::Error::from)?;
                if inserted == 1 { Ok(()) } else { Err(RegisterError::EmailTaken) }
            })
            .await
    }

    pub(crate) async fn credentials(
        &self,
        email: String,
    ) -> Result<Option<Credentials>, shop_database::Error> {
        self.database
            .read(move |db| {
                let found =
                    db.query_one("SELECT id, password_hash FROM users WHERE email = ?1", [email], |row| {
                        Ok(Credentials { user_id: row.get(0)?, password_hash: row.get(1)? })
                    });
                Ok(found.optional()?)
            })
            .await
    }

    pub(crate) async fn user(&self, id: String) -> Result<Option<User>, shop_database::Error> {
        self.database.read(move |db| Ok(find(db, &id)?)).await
    }

    /// The account as it is after the changes, or nothing if there is none.
    pub(crate) async fn update(
        &self,
        id: String,
        changes: Changes,
    ) -> Result<Option<User>, shop_database::Error> {
        self.database
            .write(move |tx| {
                if let Some(name) = changes.name {
                    tx.execute("UPDATE users SET name = ?2 WHERE id = ?1", params![id, name])?;
                }
                if let Some(address) = changes.address {
                    let part = |part: fn(&Address) -> &str| address.as_ref().map(part);
                    tx.execute(
                        "UPDATE users SET street = ?2, city = ?3, postal_code = ?4, country = ?5 WHERE id = ?1",
                        params![
                            id,
                            part(|address| &address.street),
                            part(|address| &address.city),
                            part(|address| &address.postal_code),
                            part(|address| &address.country),
                        ],
                    )?;
                }
                Ok(find(tx, &id)?)
            })
            .await
    }
}

fn find(db: &Connection, id: &str) -> rusqlite::Result<Option<User>> {
    db.query_one(&format!("SELECT {COLUMNS} FROM users WHERE id = ?1"), [id], user).optional()
}

fn user(row: &Row<'_>) -> rusqlite::Result<User> {
    let street: Option<String> = row.get(3)?;
    let address = match street {
        Some(street) => {
            Some(Address { street, city: row.get(4)?, postal_code: row.get(5)?, country: row.get(6)? })
        }
        None => None,
    };
    Ok(User { id: row.get(0)?, email: row.get(1)?, name: row.get(2)?, address, created_at: row.get(7)? })
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::Folder;
