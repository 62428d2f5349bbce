//! `formic check`: a manifest's faults, all of them, or what would run.

use serde_json::json;

use crate::cli::Check;
use crate::engine::{count, manifest};
use crate::exit::Outcome;
use crate::output;

pub(crate) fn run(args: &Check) -> Outcome {
    let found = manifest::locate(&args.path)?;
    let source = manifest::read(&found)?;
    let manifest = match formic_spec::Manifest::parse(&source, &manifest::shown(&found)) {
        Ok(manifest) => manifest,
        Err(faults) => return Err(manifest::faulty(&faults)),
    };
    if args.json {
        output::json(
            &json!({ "app": manifest.app.name, "order": manifest.order(), "notes": manifest.notes() }),
        );
        return Ok(());
    }
    output::line(&format!(
        "{}: {}, started in this order:",
        manifest.app.name,
        count(manifest.services.len())
    ));
    for (at, wave) in manifest.order().iter().enumerate() {
        output::line(&format!("  {}. {}", at + 1, wave.join(", ")));
    }
    for note in manifest.notes() {
        output::line(&output::wrap(&format!("note: {note}"), output::limit(), 2).join("\n"));
    }
    Ok(())
}
