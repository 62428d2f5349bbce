//! The store's promises: what is found, that stock is neither lost nor sold twice, and that a crash leaves no half step.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use rusqlite::TransactionBehavior;

use super::*;
use crate::page::Page;

/// A folder that is gone when the test is over.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("shop-product-store-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("products.sqlite")
    }

    async fn open(&self) -> Store {
        let database = Database::open(&self.file(), MIGRATIONS).unwrap();
        Store::new(database, Catalogue::built_in).await.unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const LAMP: &str = "arc-desk-lamp";
const SOFA: &str = "two-seat-sofa";

fn items(wanted: &[(&str, u32)]) -> Items {
    wanted.iter().map(|&(id, quantity)| (id.to_owned(), quantity)).collect()
}

async fn available(store: &Store, id: &str) -> i64 {
    store.product(id.into()).await.unwrap().unwrap().available
}

async fn reserve(store: &Store, id: &str, wanted: &[(&str, u32)]) -> Result<Reservation, StockError> {
    store.reserve(id.into(), "o1".into(), items(wanted)).await
}

fn page(limit: u32, token: &str) -> Page {
    Page::new(&["test"], limit, token).unwrap()
}

#[tokio::test]
async fn search_finds_words_by_their_start_in_any_case() {
    let folder = Folder::new();
    let store = folder.open().await;
    let (lamps, _) = store.search("LaMp", page(100, "")).await.unwrap();
    assert!(lamps.len() >= 10, "{}", lamps.len());
    assert!(lamps[0].name.to_lowercase().contains("lamp"), "a lamp by name comes first: {}", lamps[0].name);
    assert!(lamps.iter().all(|product| product.id != "claw-hammer-450-g"));

    let (plural, _) = store.search("lamps", page(100, "")).await.unwrap();
    assert_eq!(plural, lamps);
    let (both, _) = store.search("lamp desk", page(100, "")).await.unwrap();
    assert!(!both.is_empty() && both.len() < lamps.len());
    let (by_description, _) = store.search("bergamot", page(100, "")).await.unwrap();
    assert!(by_description.len() >= 2);
    let (nothing, _) = store.search("'; DROP TABLE products; --", page(100, "")).await.unwrap();
    assert!(nothing.is_empty());
}

#[tokio::test]
async fn pages_show_every_product_once() {
    let folder = Folder::new();
    let store = folder.open().await;
    let mut seen = std::collections::HashSet::new();
    let mut token = String::new();
    loop {
        let page = page(50, &token);
        let (products, more) = store.list(String::new(), page).await.unwrap();
        assert!(products.iter().all(|product| seen.insert(product.id.clone())));
        if !more {
            break;
        }
        assert_eq!(products.len(), 50);
        token = page.next_token();
    }
    assert_eq!(seen.len(), Catalogue::built_in().unwrap().products.len());
    let categories = store.categories().await.unwrap();
    assert_eq!(categories.iter().map(|category| category.products as usize).sum::<usize>(), seen.len());

    let (lighting, _) = store.list("lighting".into(), page(100, "")).await.unwrap();
    assert!(lighting.iter().all(|product| product.category == "lighting"));
    assert!(!lighting.is_empty());
}

#[tokio::test]
async fn a_repeated_reserve_takes_nothing_more() {
    let folder = Folder::new();
    let store = folder.open().await;
    let before = available(&store, LAMP).await;
    let first = reserve(&store, "r1", &[(LAMP, 3), (SOFA, 1)]).await.unwrap();
    let again = reserve(&store, "r1", &[(SOFA, 1), (LAMP, 3)]).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(available(&store, LAMP).await, before - 3);
    assert_eq!(first.total(), 3 * 4990 + 79900);

    assert!(matches!(reserve(&store, "r1", &[(LAMP, 4)]).await, Err(StockError::Mismatch)));
    let other_order = store.reserve("r1".into(), "o2".into(), items(&[(LAMP, 3), (SOFA, 1)])).await;
    assert!(matches!(other_order, Err(StockError::Mismatch)));
    assert_eq!(available(&store, LAMP).await, before - 3);
}

#[tokio::test]
async fn all_of_an_order_or_none_of_it() {
    let folder = Folder::new();
    let store = folder.open().await;
    let (lamps, sofas) = (available(&store, LAMP).await, available(&store, SOFA).await);
    let error = reserve(&store, "r1", &[(LAMP, 1), (SOFA, 90)]).await.unwrap_err();
    assert!(
        matches!(&error, StockError::OutOfStock { product_id, available, wanted: 90 } if product_id == SOFA && *available == sofas)
    );
    assert!(matches!(
        reserve(&store, "r2", &[(LAMP, 1), ("no-such-thing", 1)]).await,
        Err(StockError::UnknownProduct(_))
    ));
    assert_eq!(available(&store, LAMP).await, lamps);
    assert!(matches!(store.reservation("r1".into()).await, Err(StockError::NotFound)));
    // The refused id is free: the same order may try again with less.
    reserve(&store, "r1", &[(LAMP, 1)]).await.unwrap();
}

#[tokio::test]
async fn the_last_piece_is_sold_once() {
    let folder = Folder::new();
    let store = folder.open().await;
    let stock = available(&store, SOFA).await;
    let mut buyers = tokio::task::JoinSet::new();
    for buyer in 0..20 {
        let store = store.clone();
        buyers.spawn(async move { reserve(&store, &format!("r{buyer}"), &[(SOFA, 1)]).await.is_ok() });
    }
    let sold = buyers.join_all().await.into_iter().filter(|&bought| bought).count();
    assert_eq!(i64::try_from(sold).unwrap(), stock);
    assert_eq!(available(&store, SOFA).await, 0);
}

#[tokio::test]
async fn a_release_gives_back_once_and_is_final() {
    let folder = Folder::new();
    let store = folder.open().await;
    let before = available(&store, LAMP).await;
    reserve(&store, "r1", &[(LAMP, 3)]).await.unwrap();
    for _ in 0..2 {
        assert_eq!(store.release("r1".into()).await.unwrap().state, State::Released);
        assert_eq!(available(&store, LAMP).await, before);
    }
    assert!(matches!(store.commit("r1".into()).await, Err(StockError::Released)));
    assert!(matches!(reserve(&store, "r1", &[(LAMP, 3)]).await, Err(StockError::Released)));
    assert_eq!(available(&store, LAMP).await, before);
}

#[tokio::test]
async fn a_reserve_that_arrives_after_its_release_is_refused() {
    let folder = Folder::new();
    let store = folder.open().await;
    let before = available(&store, LAMP).await;
    let tombstone = store.release("late".into()).await.unwrap();
    assert_eq!((tombstone.state, tombstone.items.len()), (State::Released, 0));
    assert!(matches!(reserve(&store, "late", &[(LAMP, 1)]).await, Err(StockError::Released)));
    assert!(matches!(store.commit("late".into()).await, Err(StockError::Released)));
    assert_eq!(available(&store, LAMP).await, before);
}

#[tokio::test]
async fn a_commit_keeps_the_goods_sold_until_the_order_is_cancelled() {
    let folder = Folder::new();
    let store = folder.open().await;
    let before = available(&store, LAMP).await;
    assert!(matches!(store.commit("r1".into()).await, Err(StockError::NotFound)));
    reserve(&store, "r1", &[(LAMP, 2)]).await.unwrap();
    for _ in 0..2 {
        assert_eq!(store.commit("r1".into()).await.unwrap().state, State::Committed);
    }
    // A repeated Reserve after the commit answers what became of it.
    assert_eq!(reserve(&store, "r1", &[(LAMP, 2)]).await.unwrap().state, State::Committed);
    assert_eq!(available(&store, LAMP).await, before - 2);
    store.release("r1".into()).await.unwrap();
    assert_eq!(available(&store, LAMP).await, before);
}

#[tokio::test]
async fn a_step_that_never_committed_leaves_nothing_and_one_that_did_stays() {
    let folder = Folder::new();
    let store = folder.open().await;
    let before = available(&store, LAMP).await;
    reserve(&store, "done", &[(LAMP, 1)]).await.unwrap();
    drop(store);

    // What the disk holds when the process dies after a step's last statement and before its commit. With hardly any cache
    // the uncommitted pages are in the log already.
    let crashed = Folder::new();
    {
        let mut dying = Connection::open(folder.file()).unwrap();
        dying.pragma_update(None, "cache_size", 1).unwrap();
        let tx = dying.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        stock::reserve(&tx, "half", "o1", &items(&[(LAMP, 5)])).unwrap();
        stock::commit(&tx, "done").unwrap();
        for name in ["products.sqlite", "products.sqlite-wal"] {
            std::fs::copy(folder.0.join(name), crashed.0.join(name)).unwrap();
        }
    }
    let folder = crashed;

    let store = folder.open().await;
    assert_eq!(available(&store, LAMP).await, before - 1);
    assert!(matches!(store.reservation("half".into()).await, Err(StockError::NotFound)));
    assert_eq!(store.reservation("done".into()).await.unwrap().state, State::Held);
    // The saga comes back and does the same step again.
    reserve(&store, "half", &[(LAMP, 5)]).await.unwrap();
    assert_eq!(available(&store, LAMP).await, before - 6);
}

#[tokio::test]
async fn a_filled_database_does_not_read_the_catalogue_again() {
    let folder = Folder::new();
    let store = folder.open().await;
    reserve(&store, "r1", &[(LAMP, 1)]).await.unwrap();
    let left = available(&store, LAMP).await;
    drop(store);
    let database = Database::open(&folder.file(), MIGRATIONS).unwrap();
    let store = Store::new(database, || panic!("read a second time")).await.unwrap();
    assert_eq!(available(&store, LAMP).await, left);
    assert_eq!(store.currency(), "EUR");
}

#[tokio::test]
async fn a_cart_adds_up_within_its_limits() {
    let folder = Folder::new();
    let store = folder.open().await;
    let add = |product: &str, quantity| store.add_to_cart("ann".into(), product.into(), quantity);
    assert_eq!(store.cart("ann".into()).await.unwrap(), Cart::default());
    add(SOFA, 1).await.unwrap();
    add(LAMP, 2).await.unwrap();
    let cart = add(LAMP, 3).await.unwrap();
    let lines: Vec<_> = cart.lines.iter().map(|line| (line.product_id.as_str(), line.quantity)).collect();
    assert_eq!(lines, [(SOFA, 1), (LAMP, 5)], "in the order of their coming");
    assert_eq!(cart.total(), 79900 + 5 * 4990);
    assert_eq!(cart.version, 3);

    assert!(matches!(add(LAMP, 95).await, Err(CartError::TooMany(100))));
    assert!(matches!(add("no-such-thing", 1).await, Err(CartError::UnknownProduct(_))));
    assert_eq!(store.cart("ann".into()).await.unwrap(), cart);
    assert_eq!(store.cart("bob".into()).await.unwrap(), Cart::default(), "carts are each user's own");

    let (products, _) = store.list(String::new(), page(60, "")).await.unwrap();
    let others = products.iter().filter(|product| ![SOFA, LAMP].contains(&product.id.as_str()));
    for product in others.take(48) {
        add(&product.id, 1).await.unwrap();
    }
    assert!(matches!(add("washi-tape-set-of-6", 1).await, Err(CartError::Full)));
    add(SOFA, 1).await.unwrap();
}

#[tokio::test]
async fn a_late_clear_spares_a_newer_cart() {
    let folder = Folder::new();
    let store = folder.open().await;
    let ordered = store.add_to_cart("ann".into(), LAMP.into(), 1).await.unwrap();
    let newer = store.add_to_cart("ann".into(), SOFA.into(), 1).await.unwrap();
    assert_eq!(store.clear_cart("ann".into(), Some(ordered.version)).await.unwrap(), newer);

    let removed = store.remove_from_cart("ann".into(), SOFA.into()).await.unwrap();
    assert_eq!(removed.lines.len(), 1);
    assert_eq!(
        store.remove_from_cart("ann".into(), SOFA.into()).await.unwrap(),
        removed,
        "nothing to remove"
    );
    let cleared = store.clear_cart("ann".into(), Some(removed.version)).await.unwrap();
    assert!(cleared.lines.is_empty() && cleared.version > removed.version);
}
