//! The promises: durable, atomic, migrated once, readers beside the writer, and a panic that harms only its own job.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

const MIGRATIONS: &[&str] = &["CREATE TABLE notes (text TEXT NOT NULL) STRICT"];

/// A folder that is gone when the test is over.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("shop-database-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("test.sqlite")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn add(database: &Database, text: &'static str) -> Result<(), Error> {
    database
        .write(move |tx| {
            tx.execute("INSERT INTO notes VALUES (?1)", [text])?;
            Ok(())
        })
        .await
}

async fn count(database: &Database) -> u32 {
    let answer: Result<u32, Error> =
        database.read(|db| Ok(db.query_one("SELECT count(*) FROM notes", [], |row| row.get(0))?)).await;
    answer.unwrap()
}

#[tokio::test]
async fn what_was_written_is_there_after_reopening() {
    let folder = Folder::new();
    let first = Database::open(&folder.file(), MIGRATIONS).unwrap();
    add(&first, "one").await.unwrap();
    drop(first);
    let second = Database::open(&folder.file(), MIGRATIONS).unwrap();
    assert_eq!(count(&second).await, 1);
}

#[tokio::test]
async fn a_failed_job_leaves_nothing() {
    let folder = Folder::new();
    let database = Database::open(&folder.file(), MIGRATIONS).unwrap();
    let failed: Result<(), Error> = database
        .write(|tx| {
            tx.execute("INSERT INTO notes VALUES ('half')", [])?;
            Err(Error::Busy)
        })
        .await;
    assert!(failed.is_err());
    assert_eq!(count(&database).await, 0);
}

#[tokio::test]
async fn a_panic_rolls_back_and_the_next_job_runs() {
    let folder = Folder::new();
    let database = Database::open(&folder.file(), MIGRATIONS).unwrap();
    let panicked: Result<(), Error> = database
        .write(|tx| {
            tx.execute("INSERT INTO notes VALUES ('half')", [])?;
            panic!("a bug in a job");
        })
        .await;
    assert!(matches!(panicked, Err(Error::Unfinished(_))));
    add(&database, "whole").await.unwrap();
    assert_eq!(count(&database).await, 1);
}

#[tokio::test]
async fn a_reader_neither_waits_for_the_writer_nor_writes() {
    let folder = Folder::new();
    let database = Database::open(&folder.file(), MIGRATIONS).unwrap();
    let (entered, inside) = tokio::sync::oneshot::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let writer = database.clone();
    let write = writer.write(move |tx| {
        tx.execute("INSERT INTO notes VALUES ('slow')", [])?;
        let _ = entered.send(());
        let _ = released.recv_timeout(Duration::from_secs(10));
        Ok::<(), Error>(())
    });
    let read = async {
        inside.await.unwrap();
        let seen = count(&database).await;
        release.send(()).unwrap();
        seen
    };
    let (written, seen) = tokio::join!(write, read);
    written.unwrap();
    assert_eq!(seen, 0, "a read saw what was not committed");

    let refused: Result<usize, Error> = database.read(|db| Ok(db.execute("DELETE FROM notes", [])?)).await;
    assert!(refused.is_err());
    assert_eq!(count(&database).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_paused_clock_stands_still_while_a_job_runs() {
    let folder = Folder::new();
    let database = Database::open(&folder.file(), MIGRATIONS).unwrap();
    let slow = database.read(|_| {
        std::thread::sleep(Duration::from_millis(50));
        Ok::<_, Error>(())
    });
    tokio::time::timeout(Duration::from_secs(5), slow).await.expect("the clock ran ahead").unwrap();
}

#[test]
fn migrations_run_once_and_a_newer_file_is_refused() {
    let folder = Folder::new();
    let both = &[MIGRATIONS[0], "ALTER TABLE notes ADD COLUMN author TEXT"];
    drop(Database::open(&folder.file(), MIGRATIONS).unwrap());
    drop(Database::open(&folder.file(), both).unwrap());
    drop(Database::open(&folder.file(), both).unwrap());
    let error = Database::open(&folder.file(), MIGRATIONS).unwrap_err();
    assert!(matches!(error, Error::Newer { found: 2, known: 1 }), "{error:?}");
}

#[test]
fn a_broken_migration_changes_nothing() {
    let folder = Folder::new();
    let broken = &["CREATE TABLE a (x) ; CREATE TABLE a (x)"];
    assert!(Database::open(&folder.file(), broken).is_err());
    let connection = connect(&folder.file()).unwrap();
    let tables: u32 =
        connection.query_one("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 0);
}
