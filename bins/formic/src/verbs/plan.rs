//! `formic plan`: what an apply of the manifest would change and do; nothing is done.

mod show;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use formic_api::control::v1 as pb;
use formic_spec::Source;
use serde_json::{Value, json};

use crate::app::App;
use crate::cli::Plan;
use crate::engine::{self, manifest};
use crate::exit::{Failure, Outcome};
use crate::{app, output};

pub(crate) use show::changes;

/// What a manifest becomes on the way to the engine.
pub(crate) struct Wanted {
    pub(crate) manifest: String,
    pub(crate) artifacts: HashMap<String, String>,
}

pub(crate) async fn run(args: Plan) -> Outcome {
    let app = app::find(&args.listing.target).await?;
    let Wanted { manifest, artifacts } = wanted(&app, args.no_build).await?;
    let request =
        pb::PlanRequest { manifest, artifacts: artifacts.into_iter().collect(), ..Default::default() };
    let plan = app.deploy().plan(request).await?.into_message();
    if args.listing.json {
        output::json(&to_json(&plan));
    } else {
        output::line(&render(&plan));
    }
    Ok(())
}

/// Reads the manifest of a running application again, and builds what it names. For one of another machine it is the
/// manifest of this folder.
pub(crate) async fn wanted(app: &App, no_build: bool) -> Outcome<Wanted> {
    let file = match &app.remote {
        None => PathBuf::from(&app.status.manifest),
        Some(_) => manifest::locate(Path::new("."))?,
    };
    let file = file.as_path();
    let text = manifest::read(file)?;
    let parsed = formic_spec::Manifest::parse(&text, &manifest::shown(file))
        .map_err(|faults| manifest::faulty(&faults))?;
    if let Some(remote) = &app.remote {
        // Its paths and programs are those of the server's machine.
        if let Some(service) = parsed.services.iter().find(|s| matches!(s.source, Source::Cargo(_))) {
            return Err(Failure::user(format!(
                "{} is a Cargo package, and what is built here is not on the machine of {}",
                service.name,
                remote.url()
            ))
            .help("apply it there; over TCP a manifest of programs that are there already can be applied"));
        }
        return Ok(Wanted { manifest: text, artifacts: HashMap::new() });
    }
    let folder = file.parent().ok_or_else(|| Failure::bug("the manifest is in no folder"))?;
    let built = engine::build(folder, &parsed, app.status.profile == "release", no_build).await?;
    let artifacts = built.into_iter().map(|(package, path)| (package, path.display().to_string())).collect();
    Ok(Wanted { manifest: text, artifacts })
}

fn render(plan: &pb::PlanResponse) -> String {
    let nothing = plan.changes.is_empty() && plan.beside.is_empty();
    let mut out =
        if nothing { "nothing would change".to_owned() } else { changes(&plan.changes, &plan.beside) };
    let rows: Vec<Vec<String>> = plan
        .actions
        .iter()
        .map(|action| {
            let place = format!("{}/{}", action.service, action.slot);
            vec![action.action.clone(), place, action.instance.clone(), action.cause.clone()]
        })
        .collect();
    if !plan.changes.is_empty() && !rows.is_empty() {
        out.push_str("\n\n");
        out.push_str(&output::table(&["ACTION", "SLOT", "INSTANCE", "CAUSE"], &rows, output::limit()));
    }
    for note in &plan.notes {
        out.push_str(&format!("\n{}", output::wrap(&format!("note: {note}"), output::limit(), 2).join("\n")));
    }
    out.push_str(&format!("\nindex {}", plan.index));
    out
}

fn to_json(plan: &pb::PlanResponse) -> Value {
    let action = |action: &pb::PlannedAction| {
        json!({
            "action": action.action, "service": action.service, "slot": action.slot,
            "instance": action.instance, "cause": action.cause,
        })
    };
    json!({
        "index": plan.index, "changes": changes_json(&plan.changes), "beside": fields_json(&plan.beside),
        "actions": plan.actions.iter().map(action).collect::<Vec<_>>(), "notes": plan.notes,
    })
}

pub(crate) fn fields_json(fields: &[pb::FieldChange]) -> Value {
    fields.iter().map(|field| json!({ "field": field.field, "from": field.from, "to": field.to })).collect()
}

pub(crate) fn changes_json(changes: &[pb::ServiceChange]) -> Value {
    let change = |change: &pb::ServiceChange| {
        json!({
            "service": change.service, "change": change.change, "how": change.how,
            "fields": fields_json(&change.fields),
        })
    };
    changes.iter().map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_on_paper() {
        let field = pb::FieldChange { field: "env.LOG".into(), to: "debug".into(), ..Default::default() };
        let changed = pb::ServiceChange {
            service: "order".into(),
            change: "changed".into(),
            fields: vec![field],
            ..Default::default()
        };
        let action = pb::PlannedAction {
            action: "stop".into(),
            service: "order".into(),
            instance: "order-1".into(),
            cause: "replaced".into(),
            ..Default::default()
        };
        let notes = vec!["order: unenforced (cpu)".into()];
        let plan = pb::PlanResponse {
            index: 3,
            changes: vec![changed],
            actions: vec![action],
            notes,
            ..Default::default()
        };
        assert_eq!(
            render(&plan),
            "~ order changed\n    env.LOG: none -> debug\n\n\
             ACTION  SLOT     INSTANCE  CAUSE\nstop    order/0  order-1   replaced\n\
             note: order: unenforced (cpu)\nindex 3"
        );
        let field = |field: &str, from: &str, to: &str| pb::FieldChange {
            field: field.into(),
            from: from.into(),
            to: to.into(),
            ..Default::default()
        };
        let beside = [
            field("gateway.expose", "a", "a, b"),
            field("routes./old", "web", ""),
            field("routes./web", "", "web"),
            field("x", "(hidden)", formic_reconcile::HIDDEN_CHANGED),
        ];
        let plan = pb::PlanResponse { index: 3, beside: beside.into(), ..Default::default() };
        assert_eq!(
            render(&plan),
            "~ gateway.expose: a -> a, b\n- routes./old: removed, was web\n+ routes./web: added, web\n\
             ~ x: (hidden, changed)\nindex 3"
        );
        let nothing = pb::PlanResponse { index: 3, ..Default::default() };
        assert_eq!(render(&nothing), "nothing would change\nindex 3");
    }
}
