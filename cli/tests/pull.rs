//! `oc-cli pull` against a hub of our own on this machine: what it fetches, how it goes on, what it refuses.

use assert_cmd::Command;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request as it came.
#[derive(Clone, Debug)]
struct Request {
    method: String,
    path: String,
    headers: HashMap<String, String>,
}

impl Request {
    fn offset(&self) -> Option<usize> {
        self.headers.get("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

#[derive(Default)]
struct Response {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Close the connection after so many bytes of the body.
    cut: Option<usize>,
}

impl Response {
    fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The bytes that the request asks for.
    fn bytes(request: &Request, bytes: &[u8]) -> Self {
        match request.offset() {
            Some(offset) if offset < bytes.len() => {
                let range = format!("bytes {offset}-{}/{}", bytes.len() - 1, bytes.len());
                let response = Self::new(206).with("Content-Range", range);
                Self { body: bytes[offset..].to_vec(), ..response }
            }
            Some(_) => Self::new(416),
            None => Self { body: bytes.to_vec(), ..Self::new(200) },
        }
    }
}

/// A server that answers as `answer` says, on a thread of its own until the test ends.
struct Server {
    url: String,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn new(answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let (shared, answer) = (log.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (shared, answer) = (shared.clone(), answer.clone());
                thread::spawn(move || serve(stream.unwrap(), &shared, &*answer));
            }
        });
        Self { url, log }
    }

    fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// Requests of this method for a path that ends so.
    fn count(&self, method: &str, end: &str) -> usize {
        self.requests().iter().filter(|r| r.method == method && r.path.ends_with(end)).count()
    }
}

fn serve(stream: TcpStream, log: &Mutex<Vec<Request>>, answer: &dyn Fn(&Request) -> Response) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    if reader.read_line(&mut line).is_err() || line.is_empty() {
        return;
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let request = Request { method, path, headers };
    log.lock().unwrap().push(request.clone());
    let Response { status, headers, body, cut } = answer(&request);
    let mut head = format!("HTTP/1.1 {status} x\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Content-Length") {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    let mut stream = stream;
    let _ = stream.write_all(format!("{head}\r\n").as_bytes());
    if request.method != "HEAD" {
        let _ = stream.write_all(&body[..cut.unwrap_or(body.len()).min(body.len())]);
    }
    let _ = stream.flush();
    let _ = stream.shutdown(std::net::Shutdown::Write);
    // What the client still has to say is read, so that the system does not reset the connection.
    let _ = reader.read_to_end(&mut Vec::new());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn git_sha1(bytes: &[u8]) -> String {
    hex(&Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("tests/fixtures/llama")
}

/// The files of the tiny LLaMA, as the hub `tiny/llama` has them.
fn files() -> Vec<(String, Vec<u8>)> {
    let names =
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    names.iter().map(|name| ((*name).to_owned(), fs::read(fixture().join(name)).unwrap())).collect()
}

fn weights() -> Vec<u8> {
    fs::read(fixture().join("model.safetensors")).unwrap()
}

fn listing(names: &[&str]) -> Response {
    let siblings: Vec<String> = names.iter().map(|name| format!("{{\"rfilename\": {name:?}}}")).collect();
    let json = format!("{{\"sha\": \"{COMMIT}\", \"siblings\": [{}]}}", siblings.join(", "));
    Response { body: json.into_bytes(), ..Response::new(200) }
}

/// A hub that keeps weights elsewhere, and the server where they are.
fn hub(storage: impl Fn(&Request) -> Response + Send + Sync + 'static) -> (Server, Server) {
    let storage = Server::new(storage);
    let elsewhere = storage.url.clone();
    let hub = Server::new(move |request| {
        let files = files();
        let names: Vec<&str> =
            files.iter().map(|(name, _)| name.as_str()).chain(["README.md", "onnx/x.onnx"]).collect();
        if request.path == "/api/models/tiny/llama/revision/main" {
            return listing(&names);
        }
        let name = request.path.strip_prefix(&format!("/tiny/llama/resolve/{COMMIT}/"));
        let Some((name, bytes)) = files.iter().find(|(file, _)| Some(file.as_str()) == name) else {
            return Response::new(404).with("X-Error-Code", "EntryNotFound");
        };
        if name == "model.safetensors" {
            return Response::new(302)
                .with("X-Repo-Commit", COMMIT)
                .with("X-Linked-Etag", format!("\"{}\"", sha256(bytes)))
                .with("X-Linked-Size", bytes.len().to_string())
                .with("Location", format!("{elsewhere}/blob?signature=1"));
        }
        if name == "tokenizer.json" && request.method == "HEAD" {
            let at = format!("/tiny/llama/resolve/{COMMIT}/tokenizer.json");
            assert_eq!(request.path, at);
        }
        let length = bytes.len().to_string();
        let response = Response::bytes(request, bytes).with("ETag", format!("\"{}\"", git_sha1(bytes)));
        if request.method == "HEAD" { response.with("Content-Length", length) } else { response }
    });
    (hub, storage)
}

/// The binary with an empty cache and nothing else of the environment.
struct Cli {
    dir: tempfile::TempDir,
}

impl Cli {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn run(&self, endpoint: &str, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oc-cli"));
        command.current_dir(self.dir.path()).args(line.split_whitespace()).env_clear();
        command.env("HF_ENDPOINT", endpoint).env("HF_HOME", self.dir.path().join("home"));
        command
    }

    fn model(&self) -> PathBuf {
        self.dir.path().join("home/hub/models--tiny--llama")
    }

    fn blob(&self, name: &str) -> PathBuf {
        self.model().join("blobs").join(name)
    }

    /// The command fails with status 2, an error and a hint; nothing is found in the cache.
    fn refuses(&self, mut command: Command, message: &str, hint: &str) {
        let output = command.assert().code(2).stdout("").get_output().clone();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let (found, rest) = stderr.split_once("\n\nhint: ").unwrap_or_else(|| panic!("no hint in {stderr:?}"));
        assert!(found.contains("error: ") && found.contains(message), "{found:?} lacks {message:?}");
        assert!(rest.contains(hint), "{rest:?} lacks {hint:?}");
        assert!(!self.model().join("refs").exists());
    }

    fn check_complete(&self) {
        let snapshot = self.model().join("snapshots").join(COMMIT);
        for (name, bytes) in files() {
            assert_eq!(fs::read(snapshot.join(&name)).unwrap(), bytes, "{name}");
            let etag = if name == "model.safetensors" { sha256(&bytes) } else { git_sha1(&bytes) };
            assert_eq!(fs::read_link(snapshot.join(&name)).unwrap(), Path::new("../../blobs").join(etag));
        }
        assert_eq!(fs::read_dir(&snapshot).unwrap().count(), files().len());
        assert_eq!(fs::read_dir(self.model().join("blobs")).unwrap().count(), files().len());
        assert_eq!(fs::read_to_string(self.model().join("refs/main")).unwrap(), COMMIT);
    }
}

#[test]
fn a_model_is_fetched_into_the_standard_cache_and_found_by_its_name() {
    let cli = Cli::new();
    let (hub, storage) = hub(|request| Response::bytes(request, &weights()));
    let mut pull = cli.run(&hub.url, "pull tiny/llama");
    pull.env("HF_TOKEN", "secret");
    let output = pull.assert().code(0).get_output().clone();
    let snapshot = cli.model().join("snapshots").join(COMMIT);
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), snapshot.display().to_string());
    cli.check_complete();
    // The token is for the hub alone.
    let token = |request: &Request| request.headers.get("authorization").cloned();
    assert!(hub.requests().iter().all(|request| token(request).as_deref() == Some("Bearer secret")));
    assert!(storage.requests().iter().all(|request| token(request).is_none()));
    assert_eq!(storage.requests().len(), 1);
    assert_eq!(hub.count("GET", "README.md") + hub.count("GET", "x.onnx"), 0);
    // Again: nothing but the question whether there is anything new.
    cli.run(&hub.url, "pull tiny/llama").assert().code(0);
    assert_eq!(storage.requests().len(), 1);
    assert_eq!(hub.count("GET", "/config.json"), 1);
    // Other commands find it, without the network.
    let nowhere = "http://127.0.0.1:9";
    cli.run(nowhere, "generate --hf-path tiny/llama hello --max-out-len 2").assert().code(0);
    cli.run(nowhere, "eval --datasets ceval_demo_gen --limit 1 --subjects law --max-out-len 2 --hf-path tiny/llama")
        .assert()
        .code(0);
    cli.run(nowhere, "inspect tiny/llama").assert().code(0);
    let mut offline = cli.run(nowhere, "pull tiny/llama");
    offline.env("HF_HUB_OFFLINE", "1").assert().code(0).stdout(format!("{}\n", snapshot.display()));
}

#[test]
fn a_name_that_is_not_in_the_cache_leads_to_pull() {
    let cli = Cli::new();
    for line in ["generate --hf-path tiny/llama x", "inspect tiny/llama", "convert tiny/llama out"] {
        let output = cli.run("http://127.0.0.1:9", line).assert().code(2).get_output().clone();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("`oc-cli pull tiny/llama` fetches it"), "{stderr}");
    }
}

#[test]
fn a_cut_connection_is_continued_where_it_was_cut() {
    let cli = Cli::new();
    let (hub, storage) = hub(|request| {
        let cut = if request.offset().is_none() { Some(150_000) } else { None };
        Response { cut, ..Response::bytes(request, &weights()) }
    });
    let output = cli.run(&hub.url, "pull tiny/llama").assert().code(0).get_output().clone();
    assert!(String::from_utf8(output.stderr).unwrap().contains("trying again in 0.5 s"));
    cli.check_complete();
    let offsets: Vec<_> = storage.requests().iter().map(Request::offset).collect();
    assert_eq!(offsets, [None, Some(150_000)]);
}

#[test]
fn what_a_killed_process_fetched_is_continued() {
    let cli = Cli::new();
    let (hub, storage) = hub(|request| Response::bytes(request, &weights()));
    fs::create_dir_all(cli.model().join("blobs")).unwrap();
    let part = cli.blob(&format!("{}.incomplete", sha256(&weights())));
    fs::write(&part, &weights()[..1234]).unwrap();
    cli.run(&hub.url, "pull tiny/llama").assert().code(0);
    cli.check_complete();
    assert_eq!(storage.requests().iter().map(Request::offset).collect::<Vec<_>>(), [Some(1234)]);
}

/// A server that knows no ranges sends everything again.
#[test]
fn servers_without_ranges_send_everything() {
    let cli = Cli::new();
    let (hub, storage) = hub(|_| Response { body: weights(), ..Response::new(200) });
    fs::create_dir_all(cli.model().join("blobs")).unwrap();
    fs::write(cli.blob(&format!("{}.incomplete", sha256(&weights()))), "something else").unwrap();
    cli.run(&hub.url, "pull tiny/llama").assert().code(0);
    cli.check_complete();
    assert_eq!(storage.requests()[0].offset(), Some(14));
}

#[test]
fn a_wrong_checksum_is_no_file() {
    for damage in [0, 200_000] {
        let cli = Cli::new();
        let (hub, _storage) = hub(move |request| {
            let mut bytes = weights();
            bytes[damage] ^= 1;
            Response::bytes(request, &bytes)
        });
        cli.refuses(cli.run(&hub.url, "pull tiny/llama"), "has the checksum", "thrown away");
        let etag = sha256(&weights());
        assert!(!cli.blob(&etag).exists() && !cli.blob(&format!("{etag}.incomplete")).exists());
        assert!(cli.blob(&git_sha1(&files()[0].1)).exists(), "what was right is kept");
        // A part of a model is not found.
        assert!(!cli.model().join("snapshots").exists());
        let output = cli.run(&hub.url, "inspect tiny/llama").assert().code(2).get_output().clone();
        assert!(String::from_utf8(output.stderr).unwrap().contains("`oc-cli pull tiny/llama`"));
    }
    // Of a small file, by Git's hash; and one that is longer than it said.
    let cli = Cli::new();
    let server = Server::new(|request| match request.path.as_str() {
        path if path.starts_with("/api/") => listing(&["config.json", "model.safetensors"]),
        _ if request.method == "HEAD" => {
            Response::new(200).with("ETag", format!("\"{}\"", git_sha1(b"right"))).with("Content-Length", "5")
        }
        _ => Response { body: b"wrong".to_vec(), ..Response::new(200) },
    });
    cli.refuses(cli.run(&server.url, "pull tiny/llama"), "has the checksum", "thrown away");
    let long = Server::new(|request| match request.path.as_str() {
        path if path.starts_with("/api/") => listing(&["config.json", "model.safetensors"]),
        _ if request.method == "HEAD" => {
            Response::new(200).with("ETag", format!("\"{}\"", git_sha1(b"right"))).with("Content-Length", "5")
        }
        _ => Response { body: b"right and more".to_vec(), ..Response::new(200) },
    });
    cli.refuses(cli.run(&long.url, "pull tiny/llama"), "more bytes than it said", "thrown away");
}

#[test]
fn refusals_are_explained() {
    let cli = Cli::new();
    let answer = |status: u16, code: &'static str| {
        Server::new(move |_| Response::new(status).with("X-Error-Code", code).with("X-Error-Message", "so it said"))
    };
    let pull = |server: &Server| cli.run(&server.url, "pull tiny/llama");
    let gated = answer(403, "GatedRepo");
    cli.refuses(pull(&gated), "tiny/llama is gated (so it said)", "set HF_TOKEN");
    cli.refuses(pull(&answer(401, "RepoNotFound")), "there is no model tiny/llama on http://127", "HF_TOKEN");
    cli.refuses(pull(&answer(404, "RepoNotFound")), "there is no model tiny/llama", "check the name");
    cli.refuses(pull(&answer(404, "RevisionNotFound")), "no such revision", "branches and tags");
    cli.refuses(pull(&answer(418, "")), "status 418", "HF_ENDPOINT");
    let nonsense = Server::new(|_| Response { body: b"<html>".to_vec(), ..Response::new(200) });
    cli.refuses(pull(&nonsense), "expected value", "not how the Hugging Face hub answers");
    let endless = Server::new(|request| Response::new(307).with("Location", request.path.clone()));
    cli.refuses(pull(&endless), "redirects without end", "HF_ENDPOINT");
    cli.refuses(cli.run(&gated.url, "pull tiny"), "is no name of a model", "org/name");
    cli.refuses(cli.run(&gated.url, "pull tiny/llama --revision ../../x"), "outside the model's folder", "");
    let mut offline = pull(&gated);
    let before = gated.requests().len();
    offline.env("HF_HUB_OFFLINE", "1");
    cli.refuses(offline, "HF_HUB_OFFLINE forbids", "unset HF_HUB_OFFLINE");
    assert_eq!(gated.requests().len(), before);
}

#[test]
fn names_that_lead_out_of_the_cache_are_refused() {
    for name in ["../../evil.json", "/tmp/evil.json", "a/../../evil.json", "..\\evil.json"] {
        let cli = Cli::new();
        let server = Server::new(move |_| listing(&["config.json", name, "model.safetensors"]));
        cli.refuses(cli.run(&server.url, "pull tiny/llama"), "outside the model's folder", "nothing was written");
        assert_eq!(server.requests().len(), 1);
        assert!(!cli.dir.path().join("home").exists());
    }
    // Nor may an ETag, which names the blob.
    let cli = Cli::new();
    let server = Server::new(|request| match request.path.as_str() {
        path if path.starts_with("/api/") => listing(&["config.json", "model.safetensors"]),
        _ => Response::new(200).with("ETag", "\"../../evil\"").with("Content-Length", "4"),
    });
    cli.refuses(cli.run(&server.url, "pull tiny/llama"), "no usable ETag", "HF_ENDPOINT");
}

#[test]
fn a_busy_hub_is_asked_again() {
    let cli = Cli::new();
    let times = Mutex::new(0);
    let (hub, storage) = hub(move |request| {
        let mut times = times.lock().unwrap();
        *times += 1;
        match *times {
            1 => Response::new(503).with("Retry-After", "0"),
            2 => Response::new(429),
            _ => Response::bytes(request, &weights()),
        }
    });
    cli.run(&hub.url, "pull tiny/llama").assert().code(0);
    cli.check_complete();
    assert_eq!(storage.requests().len(), 3);
}

#[test]
fn two_at_a_time_fetch_once() {
    let cli = Cli::new();
    let (hub, storage) = hub(|request| {
        thread::sleep(std::time::Duration::from_millis(300));
        Response::bytes(request, &weights())
    });
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| cli.run(&hub.url, "pull tiny/llama").assert().code(0));
        }
    });
    cli.check_complete();
    assert_eq!(storage.requests().len(), 1);
}

#[test]
fn patterns_and_revisions() {
    let cli = Cli::new();
    let server = Server::new(|request| {
        let bytes = request.path.as_bytes().to_vec();
        let length = bytes.len().to_string();
        let response = match request.path.as_str() {
            "/api/models/tiny/llama/revision/refs%2Fpr%2F1" => return listing(&["a b/x.gguf", "y.gguf", "z.bin"]),
            path => Response { body: path.as_bytes().to_vec(), ..Response::new(200) },
        };
        let response = response.with("ETag", format!("\"{}\"", git_sha1(&bytes)));
        if request.method == "HEAD" { response.with("Content-Length", length) } else { response }
    });
    let line = "pull tiny/llama --revision refs/pr/1 --include *.gguf --exclude y*";
    cli.run(&server.url, line).assert().code(0);
    let file = cli.model().join("snapshots").join(COMMIT).join("a b/x.gguf");
    assert_eq!(fs::read_to_string(&file).unwrap(), format!("/tiny/llama/resolve/{COMMIT}/a%20b/x.gguf"));
    assert!(fs::read_link(&file).unwrap().starts_with("../../../blobs"));
    assert_eq!(fs::read_to_string(cli.model().join("refs/refs/pr/1")).unwrap(), COMMIT);
    assert_eq!(fs::read_dir(cli.model().join("blobs")).unwrap().count(), 1);
}
