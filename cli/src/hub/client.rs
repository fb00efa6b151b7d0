//! Requests to the hub: redirects, retries, and what its refusals mean.

use super::Settings;
use crate::diagnostics::{Error, Result};
use serde_json::Value;
use std::{thread, time::Duration};
use ureq::{Agent, Body, http::Response};

/// Requests without progress before a file is given up.
pub const ATTEMPTS: u32 = 5;
/// Before the second attempt; doubled before each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: usize = 8;
/// A whole body may take no longer; a large file goes on with the next request.
const BODY_TIMEOUT: Duration = Duration::from_secs(300);
/// Descriptions of models are far smaller.
const MAX_JSON: u64 = 64 << 20;

/// Talks to the hub about one model.
pub struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    name: String,
}

/// A file on the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Its name in the model.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// Its checksum: SHA-256, or Git's SHA-1 of a blob; other tags say nothing of the contents.
    pub etag: String,
    /// Bytes.
    pub size: u64,
}

/// Why a request has no answer.
pub enum Failure {
    /// The next attempt may succeed, after the pause that the hub asks for.
    Passing(String, Option<Duration>),
    /// It will not.
    Final(Error),
}

impl Client {
    /// For the model `name`.
    pub fn new(settings: &Settings, name: &str) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Redirects are followed here: the token is for the hub alone.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("oc-cli/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(30)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_recv_body(Some(BODY_TIMEOUT))
            .build();
        let Settings { endpoint, token, .. } = settings;
        Self { agent: config.into(), endpoint: endpoint.clone(), token: token.clone(), name: name.to_owned() }
    }

    /// The commit that `revision` names, and the names of its files.
    ///
    /// # Errors
    /// What the hub refuses, and what makes no sense.
    pub fn describe(&self, revision: &str) -> Result<(String, Vec<String>)> {
        let url = format!("{}/api/models/{}/revision/{}", self.endpoint, self.name, encode(revision, false));
        let json: Value = self.retry(&url, || {
            let response = self.get(&url, None)?;
            let text = response.into_body().into_with_config().limit(MAX_JSON).read_to_string();
            let text = text.map_err(|error| passing(&error))?;
            serde_json::from_str(&text).map_err(|error| Failure::Final(self.nonsense(&url, &error.to_string())))
        })?;
        let commit = json["sha"].as_str().filter(|sha| sha.len() == 40 && is_hex(sha));
        let commit = commit.ok_or_else(|| self.nonsense(&url, "it names no commit"))?;
        let siblings = json["siblings"].as_array().ok_or_else(|| self.nonsense(&url, "it names no files"))?;
        let name = |sibling: &Value| sibling["rfilename"].as_str().map(str::to_owned);
        Ok((commit.to_owned(), siblings.iter().filter_map(name).collect()))
    }

    /// What the hub says of a file.
    ///
    /// # Errors
    /// As for [`describe`](Self::describe).
    pub fn head(&self, commit: &str, file: &str) -> Result<Remote> {
        let url = format!("{}/{}/resolve/{commit}/{}", self.endpoint, self.name, encode(file, true));
        self.retry(&url, || {
            let response = self.send(&url, true, None)?;
            let header = |name: &str| header(&response, name);
            let tag = header("x-linked-etag").or_else(|| header("etag")).unwrap_or_default();
            let etag = tag.trim_start_matches("W/").trim_matches('"').to_owned();
            let is_name = !etag.is_empty() && etag.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
            let size = header("x-linked-size").or_else(|| header("content-length"));
            let size = size.and_then(|size| size.parse::<u64>().ok());
            match (is_name, size) {
                (true, Some(size)) => Ok(Remote { name: file.to_owned(), url: url.clone(), etag, size }),
                _ => Err(Failure::Final(self.nonsense(&url, "its answer has no usable ETag and size"))),
            }
        })
    }

    /// The bytes of a file from `offset` on; whether the answer begins there, or at the first byte.
    pub fn open(&self, remote: &Remote, offset: u64) -> Result<(Body, bool), Failure> {
        let response = self.get(&remote.url, Some(offset).filter(|offset| *offset > 0))?;
        let is_partial = response.status().as_u16() == 206;
        let begins_there =
            header(&response, "content-range").is_some_and(|range| range.starts_with(&format!("bytes {offset}-")));
        if is_partial && !begins_there {
            return Err(Failure::Final(self.nonsense(&remote.url, "it sent another part than asked for")));
        }
        Ok((response.into_body(), is_partial))
    }

    /// Calls `attempt` until it succeeds or there is no hope.
    fn retry<T>(&self, url: &str, mut attempt: impl FnMut() -> Result<T, Failure>) -> Result<T> {
        let mut failed = 0;
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(reason, pause)) => {
                    failed += 1;
                    self.pause(url, &reason, failed, pause)?;
                }
            }
        }
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// When `failed` attempts are enough.
    pub fn pause(&self, url: &str, reason: &str, failed: u32, wanted: Option<Duration>) -> Result<()> {
        if failed >= ATTEMPTS {
            let hint = "try again later: what was fetched is kept; HF_ENDPOINT names another hub";
            return Err(Error::input(format!("{url}: {reason} ({failed} attempts)"), hint));
        }
        let pause = wanted.unwrap_or(FIRST_PAUSE * 2_u32.pow(failed - 1)).min(LONGEST_PAUSE);
        tracing::warn!("{url}: {reason}; trying again in {:.1} s", pause.as_secs_f64());
        thread::sleep(pause);
        Ok(())
    }

    fn get(&self, url: &str, offset: Option<u64>) -> Result<Response<Body>, Failure> {
        self.send(url, false, offset)
    }

    /// Sends a request and follows redirects; for a HEAD only within the hub, since what lies elsewhere knows no checksums.
    fn send(&self, url: &str, is_head: bool, offset: Option<u64>) -> Result<Response<Body>, Failure> {
        let mut at = url.to_owned();
        for _ in 0..MAX_REDIRECTS {
            let request = if is_head { self.agent.head(&at) } else { self.agent.get(&at) };
            let request = request.header("accept-encoding", "identity");
            let request = match &self.token {
                Some(token) if self.is_hub(&at) => request.header("authorization", format!("Bearer {token}")),
                _ => request,
            };
            let request = match offset {
                Some(offset) => request.header("range", format!("bytes={offset}-")),
                None => request,
            };
            let response = request.call().map_err(|error| passing(&error))?;
            let status = response.status().as_u16();
            if !matches!(status, 301 | 302 | 303 | 307 | 308) {
                return if matches!(status, 200 | 206) { Ok(response) } else { Err(self.refusal(&at, &response)) };
            }
            let Some(location) = header(&response, "location") else {
                return Err(Failure::Final(self.nonsense(&at, "it redirects to nowhere")));
            };
            let next = join(&at, &location);
            let is_safe = next.starts_with("https://") || (next.starts_with("http://") && at.starts_with("http://"));
            if !is_safe {
                return Err(Failure::Final(self.nonsense(&at, &format!("it redirects to `{next}`"))));
            }
            if is_head && (!self.is_hub(&next) || header(&response, "x-linked-etag").is_some()) {
                return Ok(response);
            }
            at = next;
        }
        Err(Failure::Final(self.nonsense(url, "it redirects without end")))
    }

    fn is_hub(&self, url: &str) -> bool {
        url.strip_prefix(&self.endpoint).is_some_and(|rest| rest.starts_with('/'))
    }

    /// What a status other than success means.
    fn refusal(&self, url: &str, response: &Response<Body>) -> Failure {
        let status = response.status().as_u16();
        let code = header(response, "x-error-code").unwrap_or_default();
        let said = header(response, "x-error-message").map_or(String::new(), |text| format!(" ({text})"));
        let name = &self.name;
        let page = format!("{}/{name}", self.endpoint);
        let error = match (status, code.as_str()) {
            (429 | 500 | 502 | 503 | 504 | 408, _) => {
                let pause = header(response, "retry-after").and_then(|seconds| seconds.parse().ok());
                return Failure::Passing(format!("status {status}{said}"), pause.map(Duration::from_secs));
            }
            (416, _) => return Failure::Passing("it has less than what was fetched before".into(), None),
            (401 | 403, "GatedRepo") => Error::input(
                format!("{name} is gated{said}"),
                format!("ask for access at {page}, and set HF_TOKEN to a token of yours"),
            ),
            (404, "RevisionNotFound") => {
                Error::input(format!("{name} has no such revision{said}"), format!("{page} lists branches and tags"))
            }
            (404, "EntryNotFound") => Error::input(format!("{url} does not exist{said}"), format!("see {page}")),
            (401 | 403 | 404, _) => {
                let hint = match self.token {
                    None => "check the name; a private one needs a token in HF_TOKEN",
                    Some(_) => "check the name, and whether the token in HF_TOKEN may read it",
                };
                Error::input(format!("there is no model {name} on {}, or not for you{said}", self.endpoint), hint)
            }
            _ => self.nonsense(url, &format!("status {status}{said}")),
        };
        Failure::Final(error)
    }

    fn nonsense(&self, url: &str, what: &str) -> Error {
        Error::input(format!("{url}: {what}"), "check HF_ENDPOINT: this is not how the Hugging Face hub answers")
    }
}

/// A failure of the connection.
pub fn passing(error: &ureq::Error) -> Failure {
    match error {
        ureq::Error::BadUri(_) | ureq::Error::InvalidProxyUrl => {
            Failure::Final(Error::input(error, "check HF_ENDPOINT, and the proxy of the environment"))
        }
        _ => Failure::Passing(error.to_string(), None),
    }
}

fn header(response: &Response<Body>, name: &str) -> Option<String> {
    response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Where a redirect leads that was answered to a request of `url`.
fn join(url: &str, location: &str) -> String {
    if location.contains("://") {
        return location.to_owned();
    }
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    if let Some(host) = location.strip_prefix("//") {
        return format!("{scheme}://{host}");
    }
    let host = rest.split('/').next().unwrap_or_default();
    if location.starts_with('/') {
        return format!("{scheme}://{host}{location}");
    }
    let folder = url.split(['?', '#']).next().unwrap_or(url);
    let folder = folder.rsplit_once('/').map_or(folder, |(folder, _)| folder);
    format!("{folder}/{location}")
}

/// Percent-encodes what does not stand for itself in a path.
fn encode(text: &str, keep_slashes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte.into()),
            b'/' if keep_slashes => out.push('/'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_joined() {
        let from = "https://hub/a/resolve/1/f.bin?x=1";
        assert_eq!(join(from, "https://cdn/x"), "https://cdn/x");
        assert_eq!(join(from, "/b/c"), "https://hub/b/c");
        assert_eq!(join(from, "//cdn/x"), "https://cdn/x");
        assert_eq!(join(from, "g.bin"), "https://hub/a/resolve/1/g.bin");
    }

    #[test]
    fn paths_are_encoded() {
        assert_eq!(encode("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(encode("a b/ü?.bin", true), "a%20b/%C3%BC%3F.bin");
    }
}
