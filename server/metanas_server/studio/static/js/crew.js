// Calls between the page and its workers: a task and its content go, a result or an error comes.

/** Start the worker of a script at the first call; return `ask(task, content, transfer)`. */
export function crew(script) {
  const waiting = new Map();
  let worker = null;
  let lastId = 0;
  const settle = (id, finish) => {
    finish(waiting.get(id));
    waiting.delete(id);
  };
  const start = () => {
    const made = new Worker(script, { type: 'module' });
    made.onmessage = ({ data: { id, result, error } }) => settle(id, (call) => (error ? call.reject(new Error(error)) : call.resolve(result)));
    made.onerror = (event) => {
      for (const id of [...waiting.keys()]) settle(id, (call) => call.reject(new Error(event.message ?? 'the worker has failed')));
      worker = null;
    };
    return made;
  };
  return (task, content, transfer = []) => {
    worker ??= start();
    lastId += 1;
    const id = lastId;
    worker.postMessage({ id, task, content }, transfer);
    return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
  };
}

/** Answer the calls of the page; `tasks` are functions by name. */
export function serve(tasks) {
  self.onmessage = async ({ data: { id, task, content } }) => {
    try {
      self.postMessage({ id, result: await tasks[task](content) });
    } catch (error) {
      self.postMessage({ id, error: String(error) });
    }
  };
}
