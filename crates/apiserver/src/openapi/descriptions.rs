//! What kinds and fields are for, in upstream's words, as the build script took them out of `k8s-openapi`.

use std::collections::BTreeMap;
use std::io::Read as _;

/// Lines `=DEFINITION TEXT`, each followed by lines `FIELD TEXT`; texts are JSON strings.
static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.zlib"));

/// All texts, unpacked: more than a megabyte, so it is made where documents are made and dropped after.
pub(super) struct Descriptions {
    text: String,
    /// By definition, where its line begins.
    places: BTreeMap<String, usize>,
}

impl Descriptions {
    pub(super) fn unpack() -> Descriptions {
        let mut text = String::new();
        flate2::read::ZlibDecoder::new(PACKED).read_to_string(&mut text).expect("the build script packed text");
        let mut places = BTreeMap::new();
        let mut place = 0;
        for line in text.split_inclusive('\n') {
            if let Some((name, _)) = line.strip_prefix('=').and_then(|rest| rest.split_once(' ')) {
                places.insert(name.to_owned(), place);
            }
            place += line.len();
        }
        Descriptions { text, places }
    }

    /// What a kind or a part of one is for. Lists have no definition of their own there, and all the same text upstream.
    pub(super) fn of_message(&self, name: &str) -> Option<String> {
        let own = self.lines(name).next().and_then(|line| unquoted(line.strip_prefix('=')?));
        own.or_else(|| {
            let item = name.strip_suffix("List")?;
            let kind = item.rsplit('.').next()?;
            self.places.contains_key(item).then(|| format!("{kind}List is a collection of {kind}."))
        })
    }

    /// What a field is for.
    pub(super) fn of_field(&self, message: &str, field: &str) -> Option<String> {
        let mut fields = self.lines(message).skip(1).take_while(|line| !line.starts_with('='));
        fields.find(|line| line.split_once(' ').is_some_and(|(name, _)| name == field)).and_then(unquoted)
    }

    fn lines(&self, name: &str) -> impl Iterator<Item = &str> {
        let text = self.places.get(name).map_or("", |place| &self.text[*place..]);
        text.lines()
    }
}

/// The text behind the name on a line; none when it is empty.
fn unquoted(line: &str) -> Option<String> {
    let (_, text) = line.split_once(' ')?;
    serde_json::from_str(text).ok().filter(|text: &String| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "io.k8s.api.core.v1.Pod";

    #[test]
    fn kinds_fields_and_lists_are_described() {
        let descriptions = Descriptions::unpack();
        let of_field = |message: &str, field| descriptions.of_field(message, field).unwrap_or_default();
        assert!(descriptions.of_message(POD).unwrap_or_default().starts_with("Pod is a collection of containers"));
        // One form of the sources, and the other.
        assert!(of_field("io.k8s.api.core.v1.Container", "imagePullPolicy").starts_with("Image pull policy."));
        assert!(of_field("io.k8s.api.core.v1.Container", "livenessProbe").starts_with("Periodic probe"));
        assert!(of_field("io.k8s.api.core.v1.Container", "args").contains("\"$(VAR_NAME)\""));
        assert_eq!(descriptions.of_message(&format!("{POD}List")).as_deref(), Some("PodList is a collection of Pod."));
        assert_eq!(descriptions.of_message("io.k8s.api.core.v1.Nonsense"), None);
        assert_eq!(descriptions.of_field(POD, "nonsense"), None);
    }
}
