//! Scripts: shell lines with the output that is expected of them.
//!
//! | line | meaning |
//! |---|---|
//! | `# …` | a remark |
//! | `$ LINE` | must succeed, and print what follows |
//! | `! LINE` | must fail, and print what follows |
//! | `~ LINE` | is run until it succeeds and prints what follows |
//! | `...` alone | any lines, or none |
//! | `[..]` in a line | any text |
//!
//! Both outputs of a line count. A line ending in a backslash goes on in the next one.

use std::path::Path;
use std::process::Command;

use crate::clock;
use crate::cluster::{Cluster, Ran, kubectls, ran};
use crate::machine::source;

/// What a line of a script has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Demand {
    Succeed,
    Fail,
    Eventually,
}

/// A line of a script with what is expected of it.
#[derive(Debug)]
struct Step<'s> {
    number: usize,
    demand: Demand,
    line: String,
    expected: Vec<&'s str>,
}

/// Runs `scripts/NAME.txt` with each of the real kubectls, each in a namespace of its own.
pub fn run(cluster: &Cluster, name: &str) {
    for (number, kubectl) in kubectls().iter().enumerate() {
        run_with(cluster, name, kubectl, &format!("space-{number}"), &[]);
    }
}

/// Runs `scripts/NAME.txt` in a new namespace; `$NS` is its name, `$NODE` the node's, and `variables` are set besides.
pub fn run_with(cluster: &Cluster, name: &str, kubectl: &Path, namespace: &str, variables: &[(&str, &str)]) {
    let text = std::fs::read_to_string(source("scripts").join(format!("{name}.txt"))).expect("read the script");
    let home = cluster.machine.folder.join(namespace);
    std::fs::create_dir_all(&home).expect("make a folder");
    let config = home.join("kubeconfig");
    std::fs::copy(cluster.kubeconfig(), &config).expect("copy the kubeconfig");
    let node = cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    let shell = |line: &str| {
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(format!("{{ {line}\n}} 2>&1")).current_dir(source("files"));
        let path =
            format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", kubectl.parent().expect("a file lies in a folder").display());
        shell.env("PATH", path).env("KUBECONFIG", &config).env("HOME", &home).env("NS", namespace).env("TERM", "xterm");
        shell.env("NODE", &node);
        shell.envs(variables.iter().copied());
        ran(shell.stdin(std::process::Stdio::null()))
    };
    let prepared = shell(&format!(
        "kubectl create namespace {namespace} && kubectl config set-context --current --namespace={namespace} \
         && timeout 20 sh -c 'until kubectl get serviceaccount default; do sleep 0.1; done'"
    ));
    assert_eq!(prepared.code, Some(0), "make namespace {namespace}: {}", prepared.stdout);
    // All faults are told at once, though the later ones may come of the first.
    let mut faults = Vec::new();
    for step in steps(&text) {
        let start = stdx::mono();
        let mut fault = fault(&step, &shell(&step.line));
        while step.demand == Demand::Eventually && fault.is_some() && stdx::mono() - start < clock::PATIENCE {
            clock::pause(std::time::Duration::from_millis(100));
            fault = self::fault(&step, &shell(&step.line));
        }
        faults.extend(fault.map(|fault| format!("{name}.txt:{}\n{fault}", step.number)));
    }
    assert!(faults.is_empty(), "with {}:\n{}", kubectl.display(), faults.join("\n\n"));
}

fn steps(text: &str) -> Vec<Step<'_>> {
    let mut steps: Vec<Step> = Vec::new();
    let mut continues = false;
    for (number, line) in text.lines().enumerate() {
        if continues {
            let step = steps.last_mut().expect("a line that goes on has begun");
            step.line += line.trim_start().trim_end_matches('\\');
            continues = line.ends_with('\\');
            continue;
        }
        let demand = match line.split_at_checked(2) {
            Some(("$ ", _)) => Demand::Succeed,
            Some(("! ", _)) => Demand::Fail,
            Some(("~ ", _)) => Demand::Eventually,
            Some(("# ", _)) => continue,
            _ => {
                let step = steps.last_mut().expect("a script begins with a line to run");
                step.expected.push(line);
                continue;
            }
        };
        continues = line.ends_with('\\');
        let line = line[2..].trim_end_matches('\\').to_owned();
        steps.push(Step { number: number + 1, demand, line, expected: Vec::new() });
    }
    for step in &mut steps {
        while step.expected.last().is_some_and(|line| line.is_empty()) {
            step.expected.pop();
        }
    }
    steps
}

/// What is wrong with how a step went.
fn fault(step: &Step<'_>, ran: &Ran) -> Option<String> {
    let lines: Vec<&str> = ran.stdout.trim_end().lines().map(str::trim_end).collect();
    let right_code = (ran.code == Some(0)) == (step.demand != Demand::Fail);
    let right_text = matches(&lines, &step.expected);
    (!right_code || !right_text).then(|| {
        let expected = step.expected.join("\n");
        format!("> {}\nexit code {:?}; expected:\n{expected}\nfound:\n{}", step.line, ran.code, lines.join("\n"))
    })
}

fn matches(lines: &[&str], expected: &[&str]) -> bool {
    match (lines, expected) {
        ([], []) => true,
        (_, ["...", rest @ ..]) => (0..=lines.len()).any(|skipped| matches(&lines[skipped..], rest)),
        ([line, lines @ ..], [first, rest @ ..]) => line_matches(line, first) && matches(lines, rest),
        _ => false,
    }
}

fn line_matches(line: &str, expected: &str) -> bool {
    let Some((start, rest)) = expected.trim_end().split_once("[..]") else { return line == expected.trim_end() };
    let Some(line) = line.strip_prefix(start) else { return false };
    (0..=line.len()).filter(|at| line.is_char_boundary(*at)).any(|at| line_matches(&line[at..], rest))
}

#[test]
fn a_script_says_what_to_run_and_what_to_expect() {
    let found = steps("# remark\n$ one \\\n  two\na\n\n! three\n");
    let summary: Vec<_> =
        found.iter().map(|step| (step.number, step.demand, step.line.as_str(), &*step.expected)).collect();
    assert_eq!(summary, [(2, Demand::Succeed, "one two", &["a"][..]), (6, Demand::Fail, "three", &[][..])]);
}

#[test]
fn output_matches_a_pattern_wholly_or_not_at_all() {
    let check = |lines: &[&str], expected: &[&str], is_match| {
        assert_eq!(matches(lines, expected), is_match, "{lines:?} {expected:?}")
    };
    check(&["a", "b"], &["a", "b"], true);
    check(&["a", "b"], &["a"], false);
    check(&["a"], &["a", "b"], false);
    check(&["a", "x", "b"], &["a", "...", "b"], true);
    check(&["a", "b"], &["...", "b", "..."], true);
    check(&["pod/a-1 created"], &["pod/[..] created"], true);
    check(&["pod/a-1 deleted"], &["pod/[..] created"], false);
    check(&["NAME   AGE"], &["NAME[..]AGE[..]"], true);
}
