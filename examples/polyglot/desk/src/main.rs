//! A Rust service between a Node and a Python program, which it finds by name in the registry like any
//! Formic service.

mod plain;

use formic::prelude::*;
use plain::Plain;
use polyglot::desk::v1::{DeskService, QuoteRequest, QuoteResponse};
use serde::Deserialize;

formic::include_protos!();

struct Desk {
    prices: Plain,
    reports: Plain,
}

#[derive(Deserialize)]
struct Price {
    cents: u64,
    by: String,
}

#[derive(Deserialize)]
struct Report {
    line: String,
    by: String,
}

impl DeskService for Desk {
    async fn quote(&self, _: Context, request: Request<'_, QuoteRequest>) -> Reply<QuoteResponse> {
        let (item, count) = (request.item, request.count.max(1));
        if item.is_empty() || !item.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(
                Error::invalid_argument("not an item").with_field("item", "must be letters or digits")
            );
        }
        let price: Price = self.prices.get(&format!("/{item}")).await?;
        let cents = price.cents;
        let path = format!("/reports/line?item={item}&count={count}&cents={cents}");
        let report: Report = self.reports.get(&path).await?;
        reply(QuoteResponse {
            line: report.line,
            cents: cents * u64::from(count),
            priced_by: price.by,
            written_by: report.by,
            ..Default::default()
        })
    }
}

#[formic::main]
async fn main() -> formic::Result {
    let service = Service::new("desk");
    let plain = |name| Plain::new(service.clients(), name);
    let desk = Desk { prices: plain("prices")?, reports: plain("reports")? };
    service.serve(desk).run().await
}
