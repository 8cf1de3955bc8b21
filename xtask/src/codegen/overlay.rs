//! Reads `overlay.txt`: the facts that no dependency carries.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// All of the file.
#[derive(Default)]
pub(super) struct Overlay {
    pub(super) messages: BTreeMap<String, Facts>,
    /// Full names of further kinds by `group/version`.
    pub(super) kinds: BTreeMap<String, Vec<String>>,
}

/// What is said of one message.
#[derive(Default)]
pub(super) struct Facts {
    /// `K`: it begins with kind and API version. `A` and `U` as in the table.
    pub(super) flags: String,
    pub(super) nullable: Vec<String>,
    pub(super) always: Vec<String>,
    pub(super) omit_zero: Vec<String>,
    pub(super) inlined: Vec<String>,
    pub(super) go_types: BTreeMap<String, String>,
    pub(super) enums: BTreeMap<String, String>,
    /// Attributes that replace those of the sources.
    pub(super) attributes: BTreeMap<String, Vec<String>>,
    pub(super) removed: Vec<String>,
    pub(super) added: Vec<Added>,
}

/// A field that the sources have not.
pub(super) struct Added {
    /// Empty for the first place.
    pub(super) after: String,
    pub(super) number: String,
    pub(super) name: String,
    /// As in the table, with full names of messages instead of positions.
    pub(super) code: String,
}

/// Parses the file. Its lines are explained at its head.
pub(super) fn parse(text: &str) -> Result<Overlay> {
    let mut overlay = Overlay::default();
    let mut facts = &mut Facts::default();
    for (index, line) in text.lines().enumerate() {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let Some((verb, rest)) = words.split_first() else { continue };
        let context = || format!("overlay.txt:{}", index + 1);
        match (verb.as_str(), rest) {
            (verb, _) if verb.starts_with('#') => {}
            ("M", [name, flags @ ..]) => {
                facts = overlay.messages.entry(name.clone()).or_default();
                facts.flags = flags.concat();
            }
            ("K", [group, names @ ..]) => overlay.kinds.entry(group.clone()).or_default().extend(names.iter().cloned()),
            _ => facts.add(verb, rest).with_context(context)?,
        }
    }
    Ok(overlay)
}

impl Facts {
    fn add(&mut self, verb: &str, rest: &[String]) -> Result<()> {
        match (verb, rest) {
            ("?", names) => self.nullable.extend(names.iter().cloned()),
            ("!", names) => self.always.extend(names.iter().cloned()),
            ("z", names) => self.omit_zero.extend(names.iter().cloned()),
            ("~", names) => self.inlined.extend(names.iter().cloned()),
            ("-", names) => self.removed.extend(names.iter().cloned()),
            ("g", [name, ty]) => drop(self.go_types.insert(name.clone(), ty.clone())),
            ("e", [name, values]) => drop(self.enums.insert(name.clone(), values.clone())),
            ("@", [name, attributes @ ..]) => drop(self.attributes.insert(name.clone(), attributes.to_vec())),
            ("+", [number, name, code, after]) => {
                let after = after
                    .strip_prefix('>')
                    .context("a new field stands after another: `>name`, or `>` for the first place")?;
                self.added.push(Added {
                    after: after.to_owned(),
                    number: number.clone(),
                    name: name.clone(),
                    code: code.clone(),
                });
            }
            (verb, _) => bail!("what {verb} says is not understood"),
        }
        Ok(())
    }

    /// Every field that is mentioned, in its JSON spelling.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        let lists = [&self.nullable, &self.always, &self.omit_zero, &self.inlined];
        lists.into_iter().flatten().chain(self.go_types.keys()).chain(self.enums.keys()).chain(self.attributes.keys())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_belong_to_the_message_above_them() {
        let text = "# a comment\nK g/v1 a.B\nM a.B KA\n  ? x y\n  ! z\n  g x v1.X\n  + 4 new *ma.C >z\nM a.C\n  - gone\n  @ z a d:1\n";
        let overlay = parse(text).expect("well formed");
        assert_eq!(overlay.kinds["g/v1"], ["a.B"]);
        let facts = &overlay.messages["a.B"];
        assert_eq!((facts.flags.as_str(), facts.nullable.len(), facts.added[0].after.as_str()), ("KA", 2, "z"));
        assert_eq!(overlay.messages["a.C"].removed, ["gone"]);
        assert_eq!(overlay.messages["a.C"].attributes["z"], ["a", "d:1"]);
    }

    #[test]
    fn faults_name_their_line() {
        for text in ["M a.B\n? x\n% y\n", "M a.B\n? x\n+ 4 new s z\n", "M a.B\n? x\ng one\n"] {
            let error = parse(text).err().expect("not understood");
            assert!(error.to_string().contains("overlay.txt:3"), "{error}");
        }
    }
}
