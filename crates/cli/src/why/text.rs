//! Findings as text for people.

use std::fmt::Write as _;

use super::{Evidence, Finding};

/// The whole answer about `title`; without findings `well` says how it is.
pub fn report(title: &str, well: &str, findings: &[Finding], unread: &[String]) -> String {
    let mut out = match findings.len() {
        0 => format!("{title}: {well}\n"),
        _ => format!("{title}\n"),
    };
    for (number, finding) in findings.iter().enumerate() {
        write_finding(&mut out, number + 1, finding).expect("writing to a string cannot fail");
    }
    for unread in unread {
        writeln!(out, "\nnot read: {unread}").expect("writing to a string cannot fail");
    }
    out
}

fn write_finding(out: &mut String, number: usize, finding: &Finding) -> std::fmt::Result {
    writeln!(out, "\n{number}. {} ({})", finding.what, finding.reason)?;
    for Evidence { object, path, value, at } in &finding.evidence {
        let at = at.as_ref().map(|at| format!(" [{at}]")).unwrap_or_default();
        let mut lines = value.lines();
        let place = [object.as_str(), path.as_str()].into_iter().filter(|part| !part.is_empty());
        let place = place.collect::<Vec<_>>().join(" ");
        writeln!(out, "   {place}{at}: {}", lines.next().unwrap_or_default())?;
        for line in lines {
            writeln!(out, "     {line}")?;
        }
    }
    for change in &finding.changes {
        writeln!(out, "   -> {}", change.what)?;
        for line in change.command.iter().flat_map(|command| command.lines()) {
            writeln!(out, "      {line}")?;
        }
    }
    Ok(())
}
