//! A service of the facade that does as callers tell it; with `PROBER_BROKEN` set, one whose configuration is wrong.

use formic::prelude::*;
use formic_probe::Prober;

#[formic::main]
async fn main() -> formic::Result {
    if std::env::var_os("PROBER_BROKEN").is_some() {
        // EX_CONFIG: starting it again will not help.
        std::process::exit(78);
    }
    Service::new("prober").serve(Prober::new()).run().await
}
