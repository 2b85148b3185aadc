/** Pictures and their prompts in IndexedDB; in memory where the browser does not allow that. */

const NAME = "inference-server-playground";
const STORES = ["project", "pictures", "files", "documents"];

/** @param {IDBRequest | IDBTransaction} request */
const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = request.oncomplete = () => resolve(request.result);
    request.onerror = request.onabort = () => reject(request.error);
  });

async function opened() {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => {
    for (const name of STORES) request.result.createObjectStore(name);
  };
  const database = await done(request);
  database.onversionchange = () => database.close();
  return database;
}

export class Store {
  /** Whether what is put here is there after a restart. */
  isLasting = true;
  #database = opened().catch(() => {
    this.isLasting = false;
    return null;
  });
  #memory = new Map(STORES.map((name) => [name, new Map()]));

  async #run(name, mode, ask, inMemory) {
    const database = await this.#database;
    if (!database) return inMemory(this.#memory.get(name));
    const transaction = database.transaction(name, mode);
    const asked = ask(transaction.objectStore(name));
    if (mode === "readonly") return done(asked);
    return done(transaction);
  }

  get(name, key) {
    return this.#run(name, "readonly", (store) => store.get(key), (map) => map.get(key));
  }

  all(name) {
    return this.#run(name, "readonly", (store) => store.getAll(), (map) => [...map.values()]);
  }

  put(name, key, value) {
    return this.#run(name, "readwrite", (store) => store.put(value, key), (map) => map.set(key, value));
  }

  remove(name, key) {
    return this.#run(name, "readwrite", (store) => store.delete(key), (map) => map.delete(key));
  }
}
