//! `formic completions`: for bash, zsh, fish, elvish and PowerShell. In the first three the names of services are completed
//! too: the script asks the running application for them (`formic names`).

use clap::CommandFactory;
use clap_complete::Shell;

use crate::app;
use crate::cli::{Cli, Target};
use crate::exit::Outcome;
use crate::output;

/// Verbs that take services.
const VERBS: [&str; 15] = [
    "describe", "events", "exec", "logs", "pause", "restart", "resume", "rm", "run", "runs", "scale",
    "start", "stop", "traffic", "why",
];

/// After these comes a value of theirs, and no service.
const VALUED: &str =
    "--app|--server|--token-file|--tls-*|--timeout|--index|--since|--instance|-n|--tail|--from|--reset";

pub(crate) fn run(shell: Shell) -> Outcome {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "formic", &mut out);
    let script = without_hidden(&String::from_utf8_lossy(&out), shell, &hidden(&Cli::command()));
    output::data(&match shell {
        Shell::Bash => format!("{script}\n{}", bash()),
        Shell::Zsh => zsh(&script),
        Shell::Fish => format!("{}\n{}", exclusive(&script), fish()),
        _ => script,
    });
    Ok(())
}

/// Verbs that Formic itself uses. None of them is the name of one that people do.
fn hidden(command: &clap::Command) -> Vec<String> {
    let below = command.get_subcommands().flat_map(hidden);
    let own = command.get_subcommands().filter(|verb| verb.is_hide_set());
    own.map(|verb| verb.get_name().to_owned()).chain(below).collect()
}

/// Takes them out of what a script offers, which the generator does not.
fn without_hidden(script: &str, shell: Shell, hidden: &[String]) -> String {
    let offers = |line: &str| {
        let line = line.trim_start();
        hidden.iter().any(|verb| match shell {
            Shell::Fish => line.contains(&format!(" -a \"{verb}\" ")),
            Shell::Zsh => line.starts_with(&format!("'{verb}:")),
            _ => false,
        })
    };
    let shown = |line: &str| match line.split_once("opts=\"") {
        Some((before, words)) if shell == Shell::Bash => {
            let words = words.trim_end_matches('"').split(' ');
            let words: Vec<&str> = words.filter(|word| !hidden.iter().any(|verb| verb == word)).collect();
            format!("{before}opts=\"{}\"\n", words.join(" "))
        }
        _ => format!("{line}\n"),
    };
    script.lines().filter(|line| !offers(line)).map(shown).collect()
}

/// No files where a value is none.
fn exclusive(script: &str) -> String {
    let names = ["app", "server", "timeout", "index", "since", "instance", "tail", "from", "reset"];
    let line = |line: &str| match line.strip_suffix(" -r") {
        Some(rest) if names.iter().any(|name| rest.contains(&format!(" -l {name} "))) => {
            format!("{rest} -x\n")
        }
        _ => format!("{line}\n"),
    };
    script.lines().map(line).collect()
}

/// The names of the services, for the scripts above.
pub(crate) async fn names(target: &Target) -> Outcome {
    let app = app::find(target).await?;
    for service in &app.status.services {
        output::line(&service.name);
    }
    Ok(())
}

/// A function around the generated one.
fn bash() -> String {
    let verbs = VERBS.join("|");
    format!(
        r#"_formic_with_names() {{
    _formic "$@"
    local cur="${{COMP_WORDS[COMP_CWORD]}}" verb="${{COMP_WORDS[1]}}"
    [[ $COMP_CWORD -lt 2 || "$cur" == -* || ( "$verb" == exec && $COMP_CWORD -gt 2 ) ]] && return 0
    case "$verb" in {verbs}) ;; *) return 0 ;; esac
    case "${{COMP_WORDS[COMP_CWORD-1]}}" in {VALUED}) return 0 ;; esac
    local names
    names="$(formic names 2>/dev/null)" || return 0
    if [[ "$verb" == scale ]]; then
        compopt -o nospace 2>/dev/null
        names="${{names//$'\n'/= }}="
    fi
    COMPREPLY=($(compgen -W "$names" -- "$cur"))
}}
complete -F _formic_with_names -o bashdefault -o default formic
"#
    )
}

fn fish() -> String {
    let line = |verb: &str| {
        let (also, names) = match verb {
            // What follows is a command of the instance.
            "exec" => ("; and test (count (commandline -opc)) -le 2", "(formic names 2>/dev/null)"),
            "scale" => ("", "(formic names 2>/dev/null | string replace -r '(.+)' '\\$1=')"),
            _ => ("", "(formic names 2>/dev/null)"),
        };
        format!("complete -c formic -n \"__fish_formic_using_subcommand {verb}{also}\" -f -a \"{names}\"\n")
    };
    let shells = "complete -c formic -n \"__fish_formic_using_subcommand completions\" -f -a \"bash elvish fish powershell zsh\"\n";
    VERBS.into_iter().map(line).chain([shells.to_owned()]).collect()
}

/// The generated script says what each argument is called, and how it is completed at the end of its line.
fn zsh(script: &str) -> String {
    let named = |line: &str| {
        let of_service = ["':service --", "'*::services --", "':instance --"]
            .iter()
            .any(|begins| line.starts_with(begins));
        match line.split_once(":_default'").filter(|_| of_service) {
            Some((before, after)) => format!("{before}:_formic_names'{after}"),
            None => line.to_owned(),
        }
    };
    let lines: Vec<String> = script.lines().map(named).collect();
    let names = r#"_formic_names() {
    local -a names
    names=(${(f)"$(formic names 2>/dev/null)"})
    if [[ $curcontext == *-scale:* ]]; then
        compadd -S = -a names
    else
        compadd -a names
    fi
}
"#;
    // The first line says what it is for, and stays the first.
    let (first, rest) = lines.split_first().map(|(first, rest)| (first.as_str(), rest)).unwrap_or_default();
    format!("{first}\n\n{names}\n{}\n", rest.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_that_takes_services_is_there() {
        let takes = |command: &clap::Command| {
            let names = ["service", "services", "instance"];
            command.get_positionals().any(|arg| names.contains(&arg.get_id().as_str()))
        };
        let mut found: Vec<String> = Cli::command()
            .get_subcommands()
            .filter(|command| takes(command) && command.get_name() != "release")
            .map(|command| command.get_name().to_owned())
            .collect();
        found.sort();
        assert_eq!(found, VERBS);
    }

    #[test]
    fn arguments_of_zsh_are_found_by_their_names() {
        let line = "':service -- A service of the application:_default' \\";
        assert!(zsh(line).contains("_formic_names() {"));
        assert_eq!(
            zsh(&format!("#compdef formic\n{line}")).lines().last(),
            Some("':service -- A service of the application:_formic_names' \\")
        );
        let mut out = Vec::new();
        clap_complete::generate(Shell::Zsh, &mut Cli::command(), "formic", &mut out);
        let found = zsh(&String::from_utf8_lossy(&out)).matches(":_formic_names'").count();
        assert!(found >= VERBS.len(), "{found}");
    }
}
