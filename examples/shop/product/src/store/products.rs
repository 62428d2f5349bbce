//! The catalogue as tables: filled once, then read.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};

use crate::catalogue::Catalogue;
use crate::page::Page;

/// A product and how many can still be reserved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Product {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) category: String,
    pub(crate) tags: Vec<String>,
    pub(crate) price: i64,
    pub(crate) available: i64,
}

/// A category and how many products it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Category {
    pub(crate) name: String,
    pub(crate) products: u32,
}

const COLUMNS: &str = "id, name, description, category, tags, price, available";

/// The currency of a database that has been filled.
pub(crate) fn currency(db: &Connection) -> Result<Option<String>, shop_database::Error> {
    Ok(db.query_one("SELECT currency FROM shop", [], |row| row.get(0)).optional()?)
}

/// Fills an empty database, unless somebody else has just done so; answers the currency.
pub(crate) fn fill(tx: &Connection, catalogue: &Catalogue) -> Result<String, shop_database::Error> {
    if let Some(currency) = currency(tx)? {
        return Ok(currency);
    }
    tx.execute("INSERT INTO shop (one, currency) VALUES (1, ?1)", [&catalogue.currency])?;
    let mut insert = tx.prepare(
        "INSERT INTO products (id, name, description, category, tags, price, available, name_words, tag_words, all_words)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?;
    for product in &catalogue.products {
        let tags = product.tags.join(" ");
        let tag_words = spaced(&format!("{tags} {}", product.category));
        let name_words = spaced(&product.name);
        let all_words = format!("{name_words}{tag_words}{}", spaced(&product.description));
        let tags = serde_json::Value::from(product.tags.as_slice()).to_string();
        insert.execute(params![
            product.id,
            product.name,
            product.description,
            product.category,
            tags,
            product.price,
            product.stock,
            name_words,
            tag_words,
            all_words,
        ])?;
    }
    Ok(catalogue.currency.clone())
}

/// The words of a text in lower case, without a plural's `s`: who looks for lamps wants to see a lamp.
pub(crate) fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words
        .map(|word| word.strip_suffix('s').filter(|stem| stem.len() >= 3).unwrap_or(word).to_owned())
        .collect()
}

fn spaced(text: &str) -> String {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.flat_map(|word| [" ", word]).collect()
}

/// Products of which some word starts with each of `words`: those with it in their name first, then those with it in a tag.
pub(crate) fn search(
    db: &Connection,
    words: &[String],
    page: Page,
) -> rusqlite::Result<(Vec<Product>, bool)> {
    // Only numbers of parameters are put into the statement, never the caller's text.
    let each = |column: &str| {
        let terms = (1..=words.len()).map(|n| format!("(instr({column}, ?{n}) > 0)"));
        terms.collect::<Vec<_>>()
    };
    let matches = if words.is_empty() { "1".to_owned() } else { each("all_words").join(" AND ") };
    let mut score = each("name_words").iter().map(|term| format!("2 * {term}")).collect::<Vec<_>>();
    score.extend(each("tag_words"));
    // Not a number: in ORDER BY it would be the number of a column.
    let score = if score.is_empty() { "NULL".to_owned() } else { score.join(" + ") };
    let (limit, offset) = (words.len() + 1, words.len() + 2);
    let sql = format!(
        "SELECT {COLUMNS} FROM products WHERE {matches} ORDER BY {score} DESC, name, id LIMIT ?{limit} OFFSET ?{offset}"
    );
    let values = words.iter().map(|word| Value::from(format!(" {word}"))).chain(window(page));
    collect(db, &sql, values, page)
}

/// A category's products, or everybody's for an empty name.
pub(crate) fn list(db: &Connection, category: &str, page: Page) -> rusqlite::Result<(Vec<Product>, bool)> {
    let sql = format!(
        "SELECT {COLUMNS} FROM products WHERE ?1 = '' OR category = ?1 ORDER BY name, id LIMIT ?2 OFFSET ?3"
    );
    collect(db, &sql, [Value::from(category.to_owned())].into_iter().chain(window(page)), page)
}

pub(crate) fn get(db: &Connection, id: &str) -> rusqlite::Result<Option<Product>> {
    db.query_one(&format!("SELECT {COLUMNS} FROM products WHERE id = ?1"), [id], product).optional()
}

pub(crate) fn categories(db: &Connection) -> rusqlite::Result<Vec<Category>> {
    let mut statement =
        db.prepare("SELECT category, count(*) FROM products GROUP BY category ORDER BY category")?;
    let rows = statement.query_map([], |row| Ok(Category { name: row.get(0)?, products: row.get(1)? }))?;
    rows.collect()
}

/// One more than the page has: whether it comes says whether there is a next page.
fn window(page: Page) -> [Value; 2] {
    [Value::from(i64::from(page.limit) + 1), Value::from(page.offset)]
}

fn collect(
    db: &Connection,
    sql: &str,
    values: impl Iterator<Item = Value>,
    page: Page,
) -> rusqlite::Result<(Vec<Product>, bool)> {
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map(params_from_iter(values), product)?;
    let mut products = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let more = products.len() > page.limit as usize;
    products.truncate(page.limit as usize);
    Ok((products, more))
}

fn product(row: &Row<'_>) -> rusqlite::Result<Product> {
    let tags: String = row.get(4)?;
    Ok(Product {
        id: row.get(0)?,
        name: row.get(1)?,
        description: row.get(2)?,
        category: row.get(3)?,
        tags: serde_json::from_str(&tags).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(4, rusqlite::types::Type::Text, error.into())
        })?,
        price: row.get(5)?,
        available: row.get(6)?,
    })
}
