//! The facade: load a model once, then generate and score.

use crate::{
    ChatTemplate, Device, EngineOptions, Error, Event, Fingerprint, InputProcessor, LoadFormat, MemoryPlan,
    ModelConfig, ModelFiles, Output, Request, Result, Stats, Tokenizer,
    backends::{self, Backends},
    batch::ForwardOutput,
    cost::WeightCost,
    device,
    generation::Generation,
    input_processor,
    kv_cache::KvPool,
    memory::{self, Owner},
    models::decoder::Decoder,
    parallel::Parallel,
    rank::{self, Rank},
    runner::{BackendRunner, Runner},
    scheduler::{Limits, Scheduler, Step},
    sequence::{Forbidden, Job, Progress, Work},
};
use oc_kernels::{
    Backend, PAGE_SIZE,
    cuda::{device::Device as CudaDevice, driver},
};
use std::{
    collections::{HashMap, VecDeque},
    path::Path,
    sync::Arc,
};

/// Raised whenever the same inputs may give other bits than before.
const NUMERIC_VERSION: &str = "3";
/// What is left to NCCL on a GPU that shares a model, when it is decided how many do: a guess, as it is known only afterwards.
const NCCL_BYTES: usize = 512 << 20;

/// A loaded model with its tokenizer, KV cache and scheduler.
///
/// A sequence's tokens and log-probabilities depend on its own tokens and settings and on [`Engine::fingerprint`],
/// never on what else is computed beside it, before it, or in which pieces.
pub struct Engine {
    input: InputProcessor,
    fingerprint: Fingerprint,
    plan: MemoryPlan,
    weights: WeightCost,
    device_name: String,
    pub(crate) scheduler: Scheduler,
    runner: Box<dyn Runner>,
    /// The step that the runner computes.
    in_flight: Option<Step>,
    async_scheduling: bool,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("fingerprint", &self.fingerprint)
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Loads a `.gguf` file, or a Hugging Face folder with `config.json`, safetensors and `tokenizer.json`.
    ///
    /// # Errors
    /// Every variant of [`Error`] that concerns files, devices or memory.
    pub fn load(path: impl AsRef<Path>, options: EngineOptions) -> Result<Self> {
        Self::load_with_progress(path, options, |_, _| {})
    }

    /// As [`load`](Self::load); `on_progress(done, total)` is called after every layer.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub fn load_with_progress(
        path: impl AsRef<Path>,
        options: EngineOptions,
        mut on_progress: impl FnMut(usize, usize),
    ) -> Result<Self> {
        let files = match options.load_format {
            LoadFormat::Auto => ModelFiles::open(path.as_ref())?,
            LoadFormat::Dummy => ModelFiles::dummy(path.as_ref())?,
        };
        Self::from_files(files, options, &mut on_progress)
    }

    /// As [`load_with_progress`](Self::load_with_progress), from files that are open, or from
    /// [random weights](ModelFiles::dummy).
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub fn from_files(
        files: ModelFiles,
        options: EngineOptions,
        on_progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self> {
        let (device, gpu) = match options.device {
            Device::Auto => {
                let (choice, gpu) = device::auto(options.dtype);
                (choice.device, gpu)
            }
            device => (device, None),
        };
        match device {
            Device::Auto | Device::Cpu => {
                Self::build(backends::cpu(&options, memory::available_memory())?, &files, options, on_progress)
            }
            Device::Cuda | Device::Emulator => {
                // The GPU that `Auto` has found is open.
                let devices = match gpu.filter(|_| options.tensor_parallel <= 1) {
                    Some(gpu) => vec![gpu],
                    None => backends::cuda_devices(&EngineOptions { device, ..options.clone() })?,
                };
                Self::build(backends::cuda(devices, &options)?, &files, options, on_progress)
            }
        }
    }

    /// As [`load`](Self::load), on this device that runs CUDA kernels: one of several GPUs, or, where `options.device` says so,
    /// an emulator whose counters are to be read.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub fn load_on(device: Arc<dyn CudaDevice>, path: impl AsRef<Path>, options: EngineOptions) -> Result<Self> {
        let files = ModelFiles::open(path.as_ref())?;
        Self::build(backends::cuda(vec![device], &options)?, &files, options, &mut |_, _| {})
    }

    /// Loads a model on these backends, each of which gets its part.
    fn build<B: Backend + 'static>(
        Backends { all: backends, memory }: Backends<B>,
        files: &ModelFiles,
        options: EngineOptions,
        on_progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self> {
        // No other has more to hold: it is the one with the biases of sums.
        let first = Rank::first(backends.len());
        let (mut plan, token_budget) = plan(&backends[0], files, first, &options, memory)?;
        let input = InputProcessor::of_model(files, &options)?;
        let info = backends[0].info();
        let fingerprint = Fingerprint {
            weights: files.fingerprint()?,
            tokenizer: input.tokenizer().fingerprint().to_owned(),
            chat_template: input.chat_template().map(|template| template.fingerprint().to_owned()),
            dtype: info.dtype.name().to_owned(),
            device: info.kind,
            numeric_version: NUMERIC_VERSION.to_owned(),
        };
        files.release_all();

        let weights = WeightCost::new(&backends[0], files, first)?;
        let num_pages = plan.num_pages();
        let mut runners = Vec::with_capacity(first.count);
        for (rank, backend) in first.all().zip(backends) {
            let on_progress = &mut |done, total| on_progress(rank.index * total + done, rank.count * total);
            let decoder = Decoder::load(&backend, files, rank, input.max_seq_len(), on_progress)?;
            files.release_all();
            if rank == first {
                plan.weights = decoder.weight_bytes(&backend);
            }
            let config = rank.config(input.config())?;
            runners.push(BackendRunner::new(backend, decoder, &config, rank.count, num_pages, token_budget)?);
        }
        let runner: Box<dyn Runner> = match runners.pop() {
            Some(runner) if runners.is_empty() => Box::new(runner),
            last => Box::new(Parallel::new(runners.into_iter().chain(last).collect())),
        };
        let device_name = if first.count == 1 { info.name } else { format!("{} x {}", first.count, info.name) };
        let unscaled_context = input.config().unscaled_context();
        let limits = Limits { max_seqs: memory.1.batch_size(options.max_batch_size), token_budget, unscaled_context };
        let scheduler = Scheduler::new(KvPool::new(num_pages, options.prefix_cache), limits);
        Ok(Self {
            input,
            fingerprint,
            plan,
            weights,
            device_name,
            scheduler,
            runner,
            in_flight: None,
            async_scheduling: options.async_scheduling,
        })
    }

    /// What [`load`](Self::load) would allocate for this model with these options, whatever memory there is. Every tensor
    /// that the model needs is found and its shape and format checked, as for loading; no weight is read.
    ///
    /// # Errors
    /// As for [`load`](Self::load), but for the tokenizer's; never [`Error::OutOfMemory`].
    pub fn plan(files: &ModelFiles, options: &EngineOptions) -> Result<MemoryPlan> {
        let first = Rank::first(options.tensor_parallel);
        match options.device {
            Device::Auto | Device::Cpu => {
                plan(&backends::cpu(options, None)?.all[0], files, first, options, (None, Owner::Shared))
            }
            Device::Cuda => {
                let device = driver::open(options.gpu)?;
                // As large as the device is, however little of it is free.
                let memory = usize::try_from(device.caps().total_bytes).ok();
                let backend = &backends::cuda_alone(device, options)?;
                let unlimited = |_| plan(backend, files, first, options, (None, Owner::Shared));
                plan(backend, files, first, options, (memory, Owner::Ours)).or_else(unlimited)
            }
            Device::Emulator => {
                let backend = &backends::cuda(backends::cuda_devices(options)?, options)?.all[0];
                plan(backend, files, first, options, (None, Owner::Shared))
            }
        }
        .map(|(plan, _)| plan)
    }

    /// Over how many GPUs a model has to be cut at least, of `most`, so that its parts fit beside the KV of one whole context,
    /// or if none are enough for that, of a shorter one: a divisor of `most`, and 1 on anything but GPUs, whose memory is the
    /// machine's.
    ///
    /// # Errors
    /// As for [`plan`](Self::plan); [`Error::OutOfMemory`] when `most` are too few.
    pub fn fewest_gpus(files: &ModelFiles, options: &EngineOptions, most: usize) -> Result<usize> {
        if options.device != Device::Cuda {
            return Ok(1);
        }
        let device = driver::open(options.gpu)?;
        let free = usize::try_from(device.caps().free_bytes).ok();
        let backend = backends::cuda_alone(device, options)?;
        let fits = |first: Rank, kv_tokens| {
            // NCCL's buffers come out of the same memory.
            let free = free.map(|free| if first.count > 1 { free.saturating_sub(NCCL_BYTES) } else { free });
            let (plan, _) = plan(&backend, files, first, options, (free, Owner::Ours))?;
            plan.holds(kv_tokens)
        };
        let context = input_processor::context(files, options)?;
        rank::fewest(most, |first| fits(first, context)).or_else(|_| rank::fewest(most, |first| fits(first, 0)))
    }

    /// Continues every request and returns the outputs in the order of the requests.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`], [`Error::PromptTooLong`], or what the backend refuses; then no output is returned.
    pub fn generate(&mut self, requests: Vec<Request>) -> Result<Vec<Output>> {
        let mut outputs = Vec::new();
        for event in self.stream(requests)? {
            if let Event::Finished(output) = event? {
                outputs.push(output);
            }
        }
        outputs.sort_by_key(|output| output.request);
        Ok(outputs)
    }

    /// As [`generate`](Self::generate), but yields every token as it comes, and each output when it is finished (in
    /// order of completion). Requests that share a beginning are computed together. Dropping the iterator abandons
    /// what is unfinished.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] or [`Error::PromptTooLong`] before anything is computed.
    pub fn stream(&mut self, requests: Vec<Request>) -> Result<Stream<'_>> {
        for (index, request) in requests.iter().enumerate() {
            self.check_request(index, request)?;
        }
        let mut order: Vec<(usize, Request)> = requests.into_iter().enumerate().collect();
        order.sort_by(|(_, a), (_, b)| a.prompt.cmp(&b.prompt));
        let mut jobs = HashMap::new();
        let eos: Arc<[u32]> = self.config().eos_token_ids.as_slice().into();
        for (index, request) in order {
            let generation = Generation::new(index, &request, self.tokenizer());
            let Request { prompt, max_new_tokens, min_new_tokens, sampling, .. } = request;
            let tokens = if min_new_tokens > 0 { eos.clone() } else { Arc::default() };
            let forbidden = Forbidden { tokens, until: min_new_tokens };
            let work = Work::Generate { sampling, max_new_tokens, forbidden };
            let id = self.scheduler.add(Job { tokens: prompt, work });
            jobs.insert(id, generation);
        }
        Ok(Stream { engine: self, jobs, events: VecDeque::new() })
    }

    /// Waits for one forward pass, and has the next one queued meanwhile where that can be. An error abandons all work.
    pub(crate) fn step(
        &mut self,
        mut on_progress: impl FnMut(&Tokenizer, usize, Progress, usize) -> Result<bool>,
    ) -> Result<()> {
        let found = self.next_results();
        let tokenizer = self.input.tokenizer();
        let done = found.map_err(|e| (e, false)).and_then(|(step, output)| {
            let on_progress = |id, progress, cached| on_progress(tokenizer, id, progress, cached);
            self.scheduler.advance(&step, &output, on_progress).map_err(|e| (e, true))
        });
        done.map_err(|(error, is_intact)| {
            self.abandon(is_intact);
            error
        })
    }

    /// The results of the step in flight, or else of a new one.
    fn next_results(&mut self) -> Result<(Step, ForwardOutput)> {
        let step = match self.in_flight.take() {
            Some(step) => step,
            None => self.queue_step()?,
        };
        if self.async_scheduling && step.has_rows() && self.runner.may_run_ahead() {
            self.in_flight = Some(self.queue_step()?).filter(Step::has_rows);
        }
        let output = if step.has_rows() { self.runner.collect()? } else { ForwardOutput::default() };
        Ok((step, output))
    }

    fn queue_step(&mut self) -> Result<Step> {
        let step = self.scheduler.schedule();
        if step.has_rows() {
            self.runner.queue(&step.batch)?;
        }
        Ok(step)
    }

    /// Forgets all work; `is_intact`: what is in the cache, or will be after the step in flight, is right.
    pub(crate) fn abandon(&mut self, is_intact: bool) {
        self.in_flight = None;
        let is_intact = self.runner.forget().is_ok() && is_intact;
        self.scheduler.abort(is_intact);
    }

    fn check_request(&self, index: usize, request: &Request) -> Result<()> {
        let invalid = |reason: String| Err(Error::InvalidRequest(format!("request {index}: {reason}")));
        if request.max_new_tokens == 0 {
            return invalid("max_new_tokens is 0; at least one token must be generated".into());
        }
        let sampling = request.sampling;
        if !(sampling.temperature.is_finite() && sampling.temperature >= 0.0) {
            return invalid(format!("temperature is {}; use 0 (greedy) or a positive number", sampling.temperature));
        }
        if !(sampling.top_p > 0.0 && sampling.top_p <= 1.0) {
            return invalid(format!("top_p is {}; use a number in (0, 1]", sampling.top_p));
        }
        self.check_tokens(index, &request.prompt, request.max_new_tokens)
    }

    /// Refuses tokens that cannot be computed together with `others`.
    pub(crate) fn check_tokens(&self, index: usize, tokens: &[u32], others: usize) -> Result<()> {
        if tokens.is_empty() {
            return Err(Error::InvalidRequest(format!("request {index}: the prompt has no tokens")));
        }
        if let Some(token) = tokens.iter().find(|token| **token as usize >= self.config().vocab_size) {
            let vocab = self.config().vocab_size;
            return Err(Error::InvalidRequest(format!("request {index}: token {token} is outside the {vocab} known")));
        }
        let len = tokens.len().saturating_add(others);
        if len > self.max_seq_len() {
            return Err(Error::PromptTooLong {
                tokens: tokens.len(),
                max_new_tokens: others,
                max_seq_len: self.max_seq_len(),
            });
        }
        if len.div_ceil(PAGE_SIZE) > self.scheduler.num_pages() {
            let token_bytes = self.plan.kv_cache / self.plan.kv_tokens.max(1);
            return Err(Error::OutOfMemory {
                what: "the KV cache of one sequence",
                needed: len * token_bytes,
                available: self.plan.kv_cache,
                hint: "give the KV cache more memory, or shorten the prompt".into(),
            });
        }
        Ok(())
    }

    /// What it makes of text.
    pub fn input(&self) -> &InputProcessor {
        &self.input
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        self.input.tokenizer()
    }

    /// The model's chat template, if it has one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.input.chat_template()
    }

    /// The numbers that define the model.
    pub fn config(&self) -> &ModelConfig {
        self.input.config()
    }

    /// Longest context in tokens, prompt and output together.
    pub fn max_seq_len(&self) -> usize {
        self.input.max_seq_len()
    }

    /// Where the memory goes.
    pub fn memory_plan(&self) -> &MemoryPlan {
        &self.plan
    }

    /// Most memory of a GPU that was in use at a time since it was opened, in bytes (others' included; of several GPUs the one
    /// with most). `None` where memory is the host's.
    pub fn device_bytes_used(&self) -> Option<u64> {
        self.runner.device_bytes_used()
    }

    /// The device and its instructions, for people: `cpu (avx512-bf16, 2 threads)`.
    pub fn device_name(&self) -> &str {
        &self.device_name
    }

    /// What results depend on beside the request.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// What has been computed since the engine was loaded.
    pub fn stats(&self) -> Stats {
        self.scheduler.stats()
    }

    /// What one forward pass costs at least: `(new tokens, context)` of each sequence, the new ones included, and the number
    /// of `outputs`, rows whose logits are wanted.
    pub fn cost(&self, sequences: &[(usize, usize)], outputs: usize) -> oc_kernels::ops::Cost {
        let token_bytes = self.plan.kv_cache / self.plan.kv_tokens.max(1);
        self.weights.step(token_bytes, sequences, outputs)
    }
}

/// Decides what is allocated on `backend`, whose device has these bytes of memory if that is known, for the part of the
/// model that it has as `rank`, and how many rows a step has.
fn plan<B: Backend>(
    backend: &B,
    files: &ModelFiles,
    rank: Rank,
    options: &EngineOptions,
    (available, owner): (Option<usize>, Owner),
) -> Result<(MemoryPlan, usize)> {
    let config = &rank.config(files.config())?;
    let (weights, storage) = (memory::weight_bytes(backend, files, rank)?, backend.info().storage);
    let workspace = |rows| memory::workspace_bytes(config, rank.count, rows, storage);
    let left = available.map(|available| available.saturating_sub(weights));
    let token_budget = owner.token_budget(options.token_budget, left, workspace(1));
    let plan = MemoryPlan::new(
        weights,
        workspace(token_budget),
        backend.kv_page_bytes(config.kv_layout(1)),
        input_processor::context(files, options)?,
        options.kv_cache_bytes,
        available,
        owner,
    )?;
    Ok((plan, token_budget))
}

/// The generations of a call to [`Engine::stream`], token by token.
#[derive(Debug)]
pub struct Stream<'a> {
    engine: &'a mut Engine,
    jobs: HashMap<usize, Generation>,
    events: VecDeque<Event>,
}

impl Stream<'_> {
    /// What has been computed since the engine was loaded.
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    fn step(&mut self) -> Result<()> {
        let Self { engine, jobs, events } = self;
        let eos = engine.config().eos_token_ids.clone();
        engine.step(|tokenizer, id, progress, cached_tokens| {
            let (Some(generation), Progress::Token(sampled)) = (jobs.get_mut(&id), progress) else { return Ok(false) };
            let request = generation.request();
            let finish = generation.push(sampled, &eos, tokenizer)?;
            let is_output = finish != Some(crate::FinishReason::Eos);
            let text = if finish.is_none() { generation.show() } else { String::new() };
            let Some(reason) = finish else {
                events.push_back(Event::Token { request, token: sampled.token, text });
                return Ok(true);
            };
            let generation = jobs.remove(&id).expect("it was just found");
            let (text, output) = generation.finish(reason, cached_tokens);
            if is_output {
                events.push_back(Event::Token { request, token: sampled.token, text });
            } else if !text.is_empty() {
                events.push_back(Event::Text { request, text });
            }
            events.push_back(Event::Finished(output));
            Ok(false)
        })
    }
}

impl Iterator for Stream<'_> {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(Ok(event));
            }
            if self.engine.scheduler.is_idle() {
                return None;
            }
            if let Err(error) = self.step() {
                self.events.clear();
                return Some(Err(error));
            }
        }
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        self.engine.abandon(true);
    }
}
