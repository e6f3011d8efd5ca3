//! Where a blob can be had, and what is known of it before it is fetched: the server's redirect, followed to a volume.

use super::answer::{header, refusal};
use super::{Client, ClientError, basic};
use crate::model::{Key, Md5};
use percent_encoding::percent_decode_str;
use ureq::http::{HeaderMap, Request, header::AUTHORIZATION};

/// Redirects that are followed: to a volume, or to a fallback server and from there to its volume.
const MAX_HOPS: usize = 4;

/// A replica of a blob.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// Without credentials.
    pub(super) url: String,
    /// What the redirect carried of them.
    pub(super) authorization: Option<String>,
    pub(super) size: u64,
    /// The whole blob's, as the index knows it.
    pub(super) md5: Option<Md5>,
    /// The volume's name for this version.
    pub(super) etag: Option<String>,
    /// How many replicas the index knows.
    pub(super) replicas: usize,
}

/// Why there is no [`Source`].
pub(super) enum NotLocated {
    /// The server said so, and there is no use in asking again.
    Refused(ClientError),
    /// The volume that the server named failed.
    Volume { url: String, reason: String },
}

impl Client {
    /// A replica of `key`: which one, the server decides; it takes turns.
    pub(super) fn locate(&self, key: &Key) -> Result<Source, NotLocated> {
        let answer = self.ask(key).map_err(NotLocated::Refused)?;
        if !answer.status().is_redirection() {
            return Err(NotLocated::Refused(match answer.status().as_u16() {
                200..400 => self.strange("it answers 200 where a redirect should be"),
                _ => refusal(answer),
            }));
        }
        let mut known = Known::of(answer.headers());
        let mut place = location(answer.headers()).ok_or_else(|| self.no_redirect())?;
        for _ in 0..MAX_HOPS {
            let (url, authorization) = place;
            let fault = |reason: String| NotLocated::Volume { url: url.clone(), reason };
            let mut request = Request::head(&url);
            if let Some(authorization) = &authorization {
                request = request.header(AUTHORIZATION, authorization);
            }
            let request = request.body(()).map_err(|err| fault(err.to_string()))?;
            let answer = self.agent.run(request).map_err(|err| fault(format!("doesn't answer ({err})")))?;
            let headers = answer.headers();
            match answer.status().as_u16() {
                200 => {
                    let size = header(headers, "content-length").and_then(|size| size.parse().ok());
                    let size = size.ok_or_else(|| fault("gave no size".to_owned()))?;
                    let etag = etag(headers).map(str::to_owned);
                    let (md5, replicas) = (known.md5, known.replicas.unwrap_or(1));
                    return Ok(Source { url, authorization, size, md5, etag, replicas });
                }
                300..400 => {
                    known = Known::of(headers);
                    place = location(headers).ok_or_else(|| self.no_redirect())?;
                }
                // Not a volume, but a fallback server.
                404 if known.replicas.is_none() => return Err(NotLocated::Refused(refusal(answer))),
                status => return Err(fault(format!("answers {status} to HEAD"))),
            }
        }
        Err(NotLocated::Refused(self.strange("it redirects in circles")))
    }

    fn no_redirect(&self) -> NotLocated {
        NotLocated::Refused(self.strange("it redirects to nowhere"))
    }
}

/// What a redirect tells beside the way.
struct Known {
    md5: Option<Md5>,
    /// `None` if it isn't one to a volume.
    replicas: Option<usize>,
}

impl Known {
    fn of(headers: &HeaderMap) -> Known {
        let replicas = header(headers, "key-volumes").map(|list| list.split(',').count());
        Known { md5: header(headers, "content-md5").and_then(Md5::parse), replicas }
    }
}

impl Source {
    /// `host:port`, for people.
    pub(super) fn host(&self) -> &str {
        host(&self.url)
    }

    /// What a part of this blob can be continued by, wherever it comes from. Without an MD5 it is the path, which has the
    /// generation in it, with mtime and size, which are the entity tag: all replicas have the same ones.
    pub(super) fn identity(&self) -> String {
        match &self.md5 {
            Some(md5) => format!("{md5} {}", self.size),
            None => format!("{} {:?} {}", path_on_volume(&self.url), self.etag, self.size),
        }
    }
}

/// The entity tag, unless it is a weak one, which says nothing of single bytes.
pub(super) fn etag(headers: &HeaderMap) -> Option<&str> {
    header(headers, "etag").filter(|etag| etag.starts_with('"'))
}

/// `host:port` of a URL.
pub(super) fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

/// The path of a URL, below the subvolume if there is one.
fn path_on_volume(url: &str) -> &str {
    let path = url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
    match path.split_once('/') {
        Some((first, rest)) if first.starts_with("sv") => rest,
        _ => path,
    }
}

/// The URL of a `Location` and the credentials in it, which become a header as browsers do it.
fn location(headers: &HeaderMap) -> Option<(String, Option<String>)> {
    let location = header(headers, "location")?;
    let rest = location.strip_prefix("http://")?;
    let (authority, path) = rest.split_at(rest.find('/')?);
    let (userpass, place) = match authority.rsplit_once('@') {
        Some((userpass, place)) => (Some(userpass), place),
        None => (None, authority),
    };
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let authorization = userpass.map(|userpass| {
        let (user, password) = userpass.split_once(':').unwrap_or((userpass, ""));
        basic(&format!("{}:{}", decoded(user), decoded(password)))
    });
    Some((format!("http://{place}{path}"), authorization))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_on_all_volumes_have_the_same_path() {
        for url in ["http://a:1/sv0A/ab/cd/L2s=.1", "http://b/sv1/ab/cd/L2s=.1", "http://c/ab/cd/L2s=.1"] {
            assert_eq!(path_on_volume(url), "ab/cd/L2s=.1");
        }
    }

    #[test]
    fn credentials_are_taken_out_of_a_location() {
        let check = |text: &'static str, expected: Option<(&str, Option<&str>)>| {
            let mut headers = HeaderMap::new();
            headers.insert("location", ureq::http::HeaderValue::from_static(text));
            let found = location(&headers);
            assert_eq!(
                found.as_ref().map(|(url, shown)| (url.as_str(), shown.as_deref())),
                expected,
                "{text}"
            );
        };
        check("http://a:1/x", Some(("http://a:1/x", None)));
        check("http://me:p%40ss@a:1/x@y", Some(("http://a:1/x@y", Some("Basic bWU6cEBzcw=="))));
        check("https://a/x", None);
        check("http://a", None);
    }
}
