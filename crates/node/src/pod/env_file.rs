//! Files of variables that containers leave in a volume. Pure.
//!
//! Upstream: `pkg/kubelet/util/env`: a part of the shell's syntax in which every value is in single quotes.

/// The file says something else than variables; the line where it begins to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    pub line: usize,
}

/// The value of `key` in the file; `None` when it has no such key. Lines behind it are not looked at.
pub fn value<'t>(text: &'t str, key: &str) -> Result<Option<&'t str>, Malformed> {
    let (mut rest, mut line) = (text, 1);
    while !rest.is_empty() {
        let end = rest.find('\n').unwrap_or(rest.len());
        let start = rest[..end].trim_start_matches([' ', '\t']);
        if start.is_empty() || start == "\r" || start.starts_with('#') {
            (rest, line) = (rest.get(end + 1..).unwrap_or_default(), line + 1);
            continue;
        }
        let malformed = Malformed { line };
        let (name, _) = start.split_once('=').ok_or(malformed)?;
        if name.is_empty() || name.ends_with([' ', '\t']) {
            return Err(malformed);
        }
        let behind = &rest[end - start.len() + name.len() + 1..];
        let (value, after) = quoted(behind).ok_or(malformed)?;
        if name == key {
            return Ok(Some(value));
        }
        line += value.matches('\n').count() + 1;
        rest = after;
    }
    Ok(None)
}

/// What stands behind the equals sign, and what follows the end of its line.
fn quoted(behind: &str) -> Option<(&str, &str)> {
    let (value, tail) = match behind.strip_prefix('\'') {
        Some(open) => open.split_once('\'')?,
        None => ("", behind),
    };
    let (tail, after) = tail.split_once('\n').unwrap_or((tail, ""));
    let blank = tail.trim_start_matches([' ', '\t']);
    // As in a shell, blanks end the value; a word behind them would be a command.
    let harmless = blank.trim_end_matches('\r').is_empty() || (blank.len() < tail.len() && blank.starts_with('#'));
    let empty = behind.starts_with([' ', '\t']) && blank.starts_with('\'');
    (harmless || empty).then_some((value, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, key: &str, expected: Result<Option<&str>, usize>) {
        assert_eq!(value(text, key), expected.map_err(|line| Malformed { line }), "{text:?}");
    }

    #[test]
    fn values_are_quoted_and_literal() {
        let text = "# comment\n\n  A='1 $B \\n' # why\nB='two\nlines'\nC=\nD= 'ignored'\nE='x'\n";
        check(text, "A", Ok(Some("1 $B \\n")));
        check(text, "B", Ok(Some("two\nlines")));
        check(text, "C", Ok(Some("")));
        check(text, "D", Ok(Some("")));
        check(text, "E", Ok(Some("x")));
        check(text, "F", Ok(None));
        check("", "A", Ok(None));
        check("A='last'", "A", Ok(Some("last")));
    }

    #[test]
    fn anything_else_is_malformed() {
        check("A=plain\n", "A", Err(1));
        check("\nA ='1'\n", "A", Err(2));
        check("A='1'\nword\n", "B", Err(2));
        check("A='1\n", "A", Err(1));
        check("A='1'x\n", "A", Err(1));
        check("A=\"1\"\n", "A", Err(1));
        check("A='1\n2'\n=x", "B", Err(3));
    }
}
