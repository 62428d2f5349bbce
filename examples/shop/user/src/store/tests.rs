//! The store's promises: one account an email, changes that stay, and nothing lost by a restart.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A folder that is gone when the test is over.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("shop-user-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    fn open(&self) -> Store {
        Store::new(Database::open(&self.0.join("users.sqlite"), MIGRATIONS).unwrap())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn ann(id: &str) -> User {
    User { id: id.into(), email: "ann@example.com".into(), name: "Ann".into(), address: None, created_at: 7 }
}

fn address() -> Address {
    Address {
        street: "Lange Gasse 1".into(),
        city: "Wien".into(),
        postal_code: "1080".into(),
        country: "AT".into(),
    }
}

#[tokio::test]
async fn an_email_has_one_account() {
    let folder = Folder::new();
    let store = folder.open();
    store.register(ann("u1"), "hash 1".into()).await.unwrap();
    let error = store.register(ann("u2"), "hash 2".into()).await.unwrap_err();
    assert!(matches!(error, RegisterError::EmailTaken));
    let credentials = store.credentials("ann@example.com".into()).await.unwrap().unwrap();
    assert_eq!((credentials.user_id.as_str(), credentials.password_hash.as_str()), ("u1", "hash 1"));
    assert!(store.credentials("bob@example.com".into()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_change_leaves_the_rest_and_survives_a_restart() {
    let folder = Folder::new();
    let store = folder.open();
    store.register(ann("u1"), "hash".into()).await.unwrap();
    let with_address = Changes { address: Some(Some(address())), ..Changes::default() };
    let changed = store.update("u1".into(), with_address).await.unwrap().unwrap();
    assert_eq!(changed, User { address: Some(address()), ..ann("u1") });
    let renamed = Changes { name: Some("Anna".into()), ..Changes::default() };
    store.update("u1".into(), renamed).await.unwrap().unwrap();
    drop(store);

    let store = folder.open();
    let found = store.user("u1".into()).await.unwrap().unwrap();
    assert_eq!(found, User { name: "Anna".into(), address: Some(address()), ..ann("u1") });
    let without = Changes { address: Some(None), ..Changes::default() };
    assert_eq!(store.update("u1".into(), without).await.unwrap().unwrap().address, None);
    assert!(store.update("u2".into(), Changes::default()).await.unwrap().is_none());
}
