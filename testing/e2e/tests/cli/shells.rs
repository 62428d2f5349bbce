//! Completions, in the shells that they are for, where those are installed.
#![expect(clippy::print_stdout, reason = "a test that cannot run says so")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use formic_e2e::{Folder, Tool, formic};

/// A `formic` that knows three services, before all else in the path of a shell.
fn stage(shell: &str) -> (Folder, String) {
    let folder = Folder::new("completions");
    let stub = folder.path().join("formic");
    fs::write(&stub, "#!/bin/sh\nprintf 'order\\nuser\\nproduct\\n'\n").unwrap();
    fs::set_permissions(&stub, fs::Permissions::from_mode(0o755)).unwrap();
    let script = formic(&["completions", shell]).good().stdout;
    fs::write(folder.path().join("script"), script).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    (folder, path)
}

/// What a shell prints for a program of its own; `None`, said, where there is no such shell.
fn ask(shell: &str, test: &str, program: impl Fn(&Path) -> String) -> Option<Vec<String>> {
    let there =
        std::env::split_paths(&std::env::var_os("PATH").unwrap()).any(|dir| dir.join(shell).is_file());
    if !there {
        println!("formic-test-skipped: shells::{test}: there is no {shell}");
        return None;
    }
    let (folder, path) = stage(shell);
    // None of what is in this folder is asked for.
    let asked = Tool::new(shell).args(["-c", &program(&folder.path().join("script"))]).within(folder.path());
    let asked = asked.env("PATH", path).env("HOME", folder.path().as_os_str());
    Some(asked.good().stdout.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect())
}

#[test]
fn bash_completes_the_names_of_services() {
    let test = "bash_completes_the_names_of_services";
    let complete = |line: &str| {
        ask("bash", test, |script| {
            let words: Vec<&str> = line.split(' ').collect();
            format!(
                "source {}; COMP_WORDS=({}); [[ {:?} == *' ' ]] && COMP_WORDS+=(''); \
                 COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_LINE={line:?}; \
                 _formic_with_names formic \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; \
                 printf '%s\\n' \"${{COMPREPLY[@]}}\"",
                script.display(),
                words.join(" "),
                line
            )
        })
    };
    let Some(names) = complete("formic restart ") else { return };
    assert_eq!(names, ["order", "user", "product"]);
    assert_eq!(complete("formic scale o").unwrap(), ["order="]);
    let verbs = complete("formic ").unwrap();
    assert!(
        verbs.iter().any(|verb| verb == "restart") && !verbs.iter().any(|verb| verb == "names"),
        "{verbs:?}"
    );
}

#[test]
fn fish_completes_the_names_of_services() {
    let test = "fish_completes_the_names_of_services";
    let complete =
        |line: &str| ask("fish", test, |script| format!("source {}; complete -C {line:?}", script.display()));
    let Some(names) = complete("formic restart ") else { return };
    assert_eq!(names, ["order", "product", "user"]);
    assert_eq!(complete("formic scale o").unwrap(), ["order="]);
    assert_eq!(complete("formic exec ").unwrap(), names);
    assert!(!complete("formic exec order ").unwrap().contains(&"user".to_owned()), "a command follows");
    assert_eq!(complete("formic logs --since ").unwrap(), [""; 0]);
    assert_eq!(complete("formic completions z").unwrap(), ["zsh"]);
    assert_eq!(complete("formic nam").unwrap(), [""; 0]);
}

#[test]
fn zsh_takes_the_script() {
    // What it offers is shown on a terminal alone.
    let Some(said) = ask("zsh", "zsh_takes_the_script", |script| {
        format!("zsh -n {0} && grep -c _formic_names {0}", script.display())
    }) else {
        return;
    };
    assert!(said[0].parse::<u32>().unwrap() > 10, "{said:?}");
}
