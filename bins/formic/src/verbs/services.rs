//! `formic services`: what can be called, from the registry.

use std::collections::BTreeMap;

use formic_core::Instance;
use serde_json::json;

use crate::cli::Listing;
use crate::exit::{Failure, Outcome};
use crate::{app, output};

pub(crate) async fn run(args: Listing) -> Outcome {
    let app = app::find(&args.target).await?;
    let instances = instances(&app).await?;
    let mut by_service: BTreeMap<&str, Vec<&Instance>> = BTreeMap::new();
    for instance in &instances {
        by_service.entry(instance.service.as_str()).or_default().push(instance);
    }
    if args.json {
        let rows: Vec<_> = by_service
            .iter()
            .map(|(name, instances)| json!({ "service": name, "instances": instances }))
            .collect();
        output::json(&json!(rows));
        return Ok(());
    }
    let mut rows = Vec::new();
    for (name, instances) in &by_service {
        let rpc = instances.first().map(|i| i.rpc.as_slice()).unwrap_or_default();
        let methods: usize = rpc.iter().map(|service| service.methods.len()).sum();
        let names: Vec<_> = rpc.iter().map(|service| service.name.as_str()).collect();
        rows.push(vec![
            (*name).to_owned(),
            instances.len().to_string(),
            methods.to_string(),
            names.join(", "),
        ]);
    }
    if rows.is_empty() {
        output::talk("no service is registered yet; `formic status` shows what starts");
    }
    output::line(&output::table(&["SERVICE", "INSTANCES", "METHODS", "RPC"], &rows, output::limit()));
    Ok(())
}

/// Everything that is registered.
pub(crate) async fn instances(app: &app::App) -> Outcome<Vec<Instance>> {
    let wait = std::time::Duration::from_secs(3);
    let mut watch = app.registry().watch(None);
    match tokio::time::timeout(wait, watch.next()).await {
        Ok(Ok(snapshot)) => Ok(snapshot.instances.to_vec()),
        Ok(Err(error)) => Err(Failure::unreachable("the daemon's registry does not answer").because(error)),
        Err(_) => Err(Failure::unreachable("the daemon's registry did not answer within 3 s")),
    }
}
