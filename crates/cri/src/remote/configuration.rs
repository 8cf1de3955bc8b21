//! What a runtime's own configuration says that CRI does not ask for: containerd tells it with its status, to those who want
//! to know everything. Pure.

use serde::Deserialize;

use super::proto;
use crate::StringMap;
use crate::image::Image;
use crate::reference::normalise;

/// What matters of a configuration. What is not told is as CRI's newer calls tell it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Configuration {
    /// The default handler makes control groups by systemd.
    pub(super) by_systemd: bool,
    /// The image that sandboxes run, in its whole form.
    sandbox_image: Option<String>,
}

/// As containerd 1.6 and 1.7 write it.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Written {
    containerd: Containerd,
    sandbox_image: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Containerd {
    default_runtime_name: String,
    runtimes: std::collections::BTreeMap<String, OfRuntime>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OfRuntime {
    options: Option<Options>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Options {
    #[serde(rename = "SystemdCgroup")]
    systemd_cgroup: bool,
}

impl Configuration {
    /// Reads what came with a status.
    pub(super) fn read(told: &proto::StatusResponse) -> Configuration {
        Configuration::of(&told.info)
    }

    fn of(info: &StringMap) -> Configuration {
        // Others tell other things there, or nothing.
        let written: Written = info.get("config").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let Written { containerd: Containerd { default_runtime_name, mut runtimes }, sandbox_image } = written;
        let options = runtimes.remove(&default_runtime_name).and_then(|runtime| runtime.options);
        Configuration {
            by_systemd: options.is_some_and(|options| options.systemd_cgroup),
            sandbox_image: normalise(&sandbox_image).ok(),
        }
    }

    /// Marks the image of sandboxes as one that stays: runtimes before CRI's `pinned` do not. Where it is removed for want of room,
    /// no pod begins any more on a machine that cannot fetch it.
    pub(super) fn pin(&self, image: &mut Image) {
        image.pinned |= self.sandbox_image.as_ref().is_some_and(|name| image.repo_tags.contains(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(config: &str) -> Configuration {
        Configuration::of(&[("config".to_owned(), config.to_owned())].into())
    }

    #[test]
    fn containerds_configuration_tells_driver_and_image() {
        let config = |systemd: bool| {
            format!(
                r#"{{"containerd":{{"snapshotter":"overlayfs","defaultRuntimeName":"runc","runtimes":{{"runc":
                {{"runtimeType":"io.containerd.runc.v2","options":{{"BinaryName":"","SystemdCgroup":{systemd}}}}},
                "other":{{"options":null}}}}}},"sandboxImage":"k8s.gcr.io/pause:3.6","enableSelinux":false}}"#
            )
        };
        let image = Some("k8s.gcr.io/pause:3.6".to_owned());
        assert_eq!(of(&config(false)), Configuration { by_systemd: false, sandbox_image: image.clone() });
        assert_eq!(of(&config(true)), Configuration { by_systemd: true, sandbox_image: image });
        for nothing in ["", "{}", "[]", r#"{"sandboxImage":7}"#] {
            assert_eq!(of(nothing), Configuration::default(), "{nothing}");
        }
    }

    #[test]
    fn the_image_of_sandboxes_is_pinned_and_no_other() {
        let configuration = of(r#"{"sandboxImage":"pause:test"}"#);
        let pinned = |tag: &str| {
            let mut image = Image { repo_tags: vec![tag.to_owned()], ..Image::default() };
            configuration.pin(&mut image);
            image.pinned
        };
        assert!(pinned("docker.io/library/pause:test") && !pinned("docker.io/library/busybox:test"));
    }
}
