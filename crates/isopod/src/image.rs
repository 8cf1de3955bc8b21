//! `isopod image`: the images of a cluster's node, whether or not it runs.

use ::runtime::image::{ImageStore, LoadOptions};
use anyhow::{Context as _, bail};
use cli::args::{Image, Place};

use crate::paths::Paths;
use crate::runtime::Elsewhere;

/// Loads, lists or removes.
pub fn run(image: &Image) -> anyhow::Result<()> {
    match image {
        Image::Load { place, archives } => {
            let store = open(place)?;
            for archive in archives {
                let images = store.load(archive, &LoadOptions::default());
                for image in images.with_context(|| format!("load {}", archive.display()))? {
                    for tag in &image.repo_tags {
                        println!("loaded {tag}");
                    }
                    if image.repo_tags.is_empty() {
                        println!("loaded {}", image.id);
                    }
                }
            }
        }
        Image::Ls(place) => list(&open(place)?)?,
        Image::Rm { place, images } => {
            let store = open(place)?;
            for image in images {
                store.remove(image).with_context(|| format!("remove {image}"))?;
                println!("removed {image}");
            }
        }
    }
    Ok(())
}

fn open(place: &Place) -> anyhow::Result<ImageStore> {
    let paths = Paths::new(&place.data_dir)?;
    if let Some(elsewhere) = Elsewhere::recall(&paths)? {
        let endpoint = &elsewhere.endpoint;
        bail!(
            "this cluster's images are those of the runtime at {endpoint}: with containerd, `ctr --namespace k8s.io images` shows and imports them"
        );
    }
    Ok(ImageStore::open(&paths.images())?)
}

fn list(store: &ImageStore) -> anyhow::Result<()> {
    println!("{:<60} {:<14} {:>10}", "NAME", "ID", "SIZE");
    for image in store.list()? {
        let id: String = image.id.trim_start_matches("sha256:").chars().take(12).collect();
        let size = format!("{:.1} MB", image.size_bytes as f64 / 1e6);
        let names = if image.repo_tags.is_empty() { &image.repo_digests } else { &image.repo_tags };
        for name in names {
            println!("{name:<60} {id:<14} {size:>10}");
        }
        if names.is_empty() {
            println!("{:<60} {id:<14} {size:>10}", "<none>");
        }
    }
    Ok(())
}
