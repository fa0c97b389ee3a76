/** IndexedDB with promises: three stores of this page, and nothing where the browser keeps nothing. */

const NAME = "overtone";
const STORES = ["asked", "clips", "drafts"]; // each by `id`

/** @type {Promise<IDBDatabase> | null} */
let opened = null;

const open = () => (opened ??= new Promise((resolve, reject) => {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => { for (const store of STORES) request.result.createObjectStore(store, { keyPath: "id" }); };
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
}));

/**
 * One transaction over all stores: whole, or not at all. Rejects where the browser keeps nothing, or the disk is full.
 * @template T
 * @param {"readonly" | "readwrite"} mode
 * @param {(stores: Record<string, Table>) => Promise<T> | T} work  awaits nothing but these stores
 * @returns {Promise<T>}
 */
export async function transact(mode, work) {
  const transaction = (await open()).transaction(STORES, mode);
  const ended = new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(undefined);
    transaction.onabort = () => reject(transaction.error);
  });
  ended.catch(() => {}); // the error below says more
  try {
    const result = await work(Object.fromEntries(STORES.map((name) => [name, table(transaction.objectStore(name))])));
    await ended;
    return result;
  } catch (error) {
    try { transaction.abort(); } catch { /* it has ended */ }
    throw error;
  }
}

/**
 * @typedef {object} Table
 * @property {() => Promise<any[]>} all
 * @property {(id: string) => Promise<any>} get
 * @property {() => Promise<string[]>} ids
 * @property {(value: any) => Promise<any>} put
 * @property {(id: string) => Promise<any>} remove
 * @property {() => Promise<any>} clear
 */

/** @param {IDBObjectStore} store @returns {Table} */
const table = (store) => ({
  all: () => told(store.getAll()),
  get: (id) => told(store.get(id)),
  ids: () => told(store.getAllKeys()),
  put: (value) => told(store.put(value)),
  remove: (id) => told(store.delete(id)),
  clear: () => told(store.clear()),
});

/** @param {IDBRequest} request @returns {Promise<any>} */
const told = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});
